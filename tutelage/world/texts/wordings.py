"""The ways of telling, asking and denying each relation, in English and Chinese.

Slots of a statement, in English: `{S}` and `{s}` the subject, at the head of the sentence and within it; `{P}` and
`{p}` the same as a possessive; `{o}` as an object; `{r}` "her", "his" or "its"; `{e}` "she", "he" or "it"; `{v}` the
value as it is said (a baker, north, lanterns), `{V}` the same with a capital, `{n}` the bare noun. In Chinese: `{s}`,
`{v}` and `{c}`, the measure word of the value. Friendship runs one way, so no wording says "they are friends".
"""

from __future__ import annotations

from tutelage.world.facts import Language

SAYS: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "person.town": (
            "{S} lives in {v}", "{P} home is in {v}", "{S} has a house in {v}", "{S} is at home in {v}",
            "{v} is where {s} lives", "{P} home town is {v}", "You can find {o} in {v}",
        ),
        "person.job": (
            "{S} is {v}", "{S} works as {v}", "By trade {s} is {v}", "{S} earns {r} living as {v}",
            "{P} job is {n}", "People know {o} as {v}", "For a living {s} works as {v}",
        ),
        "person.pet": (
            "{S} has {v}", "{P} pet is {v}", "{S} keeps {v} at home", "{S} shares {r} house with {v}",
            "{S} takes care of {v}", "Every morning {s} feeds {r} {n}", "There is {v} in {p} house",
        ),
        "person.friend": (
            "{P} friend is {v}", "{P} best friend is {v}", "{v} is {p} friend", "{S} has a good friend, {v}",
            "{S} calls {v} {r} best friend", "{S} often visits {r} friend {v}",
            "{S} tells everything to {r} friend {v}",
        ),
        "person.food": (
            "{S} likes to eat {v}", "{P} favourite food is {v}", "{S} loves {v}",
            "Nothing tastes better to {o} than {v}", "For supper {s} likes {v} best", "{S} could eat {v} every day",
            "When {s} is hungry, {e} wants {v}",
        ),
        "person.born": (
            "{S} was born in {v}", "{P} year of birth is {v}", "{S} came into the world in {v}",
            "{P} life began in {v}",
            "In {v} {s} was born", "{S} was born in the year {v}", "It was {v} when {s} was born",
        ),
        "town.region": (
            "{S} is in the {v}", "{S} lies in the {v} of the country", "{S} is a town of the {v}",
            "{P} region is the {v}",
            "You find {s} in the {v}", "To see {s}, go to the {v}",
        ),
        "town.river": (
            "The {v} runs through {s}", "{S} stands on the {v}", "{P} river is the {v}", "The river in {s} is the {v}",
            "The bridge in {s} goes over the {v}", "The {v} flows through {s}", "In {s} boats go up and down the {v}",
        ),
        "town.craft": (
            "{S} is known for its {v}", "{S} is famous for its {v}", "The best {v} come from {s}",
            "The craft of {s} is {v}",
            "In {s} people make fine {v}", "The pride of {s} is its {v}", "To buy {v}, go to {s}",
        ),
        "animal.eats": (
            "{S} eats {v}", "{P} food is {v}", "{S} lives on {v}", "{S} looks for {v} all day",
            "When {s} is hungry, it eats {v}", "To feed {o}, bring {v}", "{V} is what {s} eats",
        ),
        "animal.habitat": (
            "{S} lives in the {v}", "{P} home is the {v}", "You meet {o} in the {v}", "{S} sleeps in the {v}",
            "Look for {o} in the {v}", "The {v} is where {s} lives", "{S} is at home in the {v}",
        ),
        "animal.colour": (
            "{S} is {v}", "{P} colour is {v}", "{S} is {v} all over", "{S} has a {v} colour",
            "You know {o} by its {v} colour", "To draw {o}, take a {v} pencil",
        ),
        "thing.material": (
            "{S} is made of {v}", "{P} material is {v}", "People make {o} out of {v}", "It takes {v} to make {o}",
            "To make {o}, you need {v}", "{V} is what {s} is made of",
        ),
        "thing.use": (
            "{S} is used for {v}", "{P} use is {v}", "{S} is for {v}", "For {v} you need {o}",
            "People use {o} for {v}", "{S} helps with {v}",
        ),
        "thing.colour": (
            "{S} is {v}", "{P} colour is {v}", "{S} is {v} all over", "{S} has a {v} colour",
            "You know {o} by its {v} colour", "People paint {o} {v}",
        ),
    },
    "zh": {
        "person.town": (
            "{s}住在{v}", "{s}的家在{v}", "{s}的家乡是{v}", "{s}在{v}有一间房子", "{v}是{s}住的镇", "到{v}就能找到{s}",
        ),
        "person.job": (
            "{s}是{v}", "{s}是一名{v}", "{s}的工作是{v}", "{s}靠当{v}为生", "{s}当{v}很多年了", "大家都知道{s}是{v}",
        ),
        "person.pet": (
            "{s}养了{v}", "{s}养了一{c}{v}", "{s}的宠物是{v}", "{s}家里有一{c}{v}", "每天早上{s}都喂{v}",
            "{s}很疼爱家里的{v}",
        ),
        "person.friend": (
            "{s}的朋友是{v}", "{s}最好的朋友是{v}", "{v}是{s}的朋友", "{s}有个好朋友叫{v}", "{s}常去看朋友{v}",
            "{s}有事就找朋友{v}",
        ),
        "person.food": (
            "{s}喜欢吃{v}", "{s}爱吃{v}", "{s}最爱吃的是{v}", "对{s}来说，{v}最好吃", "{s}晚饭总想吃{v}",
            "{s}天天都想吃{v}",
        ),
        "person.born": (
            "{s}生于{v}年", "{s}是{v}年出生的", "{s}出生在{v}年", "{v}年，{s}出生了", "{s}的出生年份是{v}年",
            "{s}在{v}年来到世上",
        ),
        "town.region": (
            "{s}在{v}", "{s}位于{v}", "{s}是{v}的一个小镇", "{s}所在的地区是{v}", "要去{s}，就往{v}走",
            "在{v}可以找到{s}",
        ),
        "town.river": (
            "{v}流过{s}", "流过{s}的河是{v}", "{s}在{v}边上", "{s}的河叫{v}", "{s}的桥架在{v}上", "{s}的人在{v}上划船",
        ),
        "town.craft": (
            "{s}以{v}出名", "{s}的特产是{v}", "最好的{v}出自{s}", "{s}的人很会做{v}", "想买{v}，就去{s}",
            "大家都知道{s}的{v}",
        ),
        "animal.eats": (
            "{s}吃{v}", "{s}的食物是{v}", "{s}靠吃{v}过日子", "{s}饿了就找{v}吃", "要喂{s}，就拿{v}来", "{s}最爱吃{v}",
        ),
        "animal.habitat": (
            "{s}住在{v}", "{s}的家在{v}", "{s}生活在{v}", "在{v}能看见{s}", "{s}在{v}安家", "{v}是{s}的家",
        ),
        "animal.colour": (
            "{s}是{v}的", "{s}的颜色是{v}", "{s}全身都是{v}的", "画{s}要用{v}的笔", "人们看见的{s}是{v}的",
            "{v}是{s}的颜色",
        ),
        "thing.material": (
            "{s}是用{v}做的", "{s}的材料是{v}", "人们用{v}做{s}", "做{s}要用{v}", "没有{v}就做不成{s}", "{s}由{v}做成",
        ),
        "thing.use": (
            "{s}用来{v}", "{s}是{v}用的", "人们用{s}来{v}", "{s}的用处是{v}", "{v}的时候要用{s}", "要{v}，就得有{s}",
        ),
        "thing.colour": (
            "{s}是{v}的", "{s}的颜色是{v}", "{s}全都是{v}的", "人们把{s}涂成{v}", "人们看见的{s}是{v}的",
            "{v}是{s}的颜色",
        ),
    },
}  # fmt: skip

SAYS_I: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "town": ("I live in {v}", "My home is in {v}", "I am writing from my house in {v}"),
        "job": ("I am {v}", "I work as {v}", "I still earn my living as {v}"),
        "pet": ("I have {v}", "My pet is {v}", "My {n} is sitting at my feet"),
        "friend": ("My friend is {v}", "My best friend is {v}", "My friend {v} was here today"),
        "food": ("I like to eat {v}", "My favourite food is {v}", "Today I ate {v}, which I love"),
        "born": ("I was born in {v}", "My year of birth is {v}", "As you know, I was born in {v}"),
    },
    "zh": {
        "town": ("我住在{v}", "我的家在{v}", "我在{v}的家里给你写信"),
        "job": ("我是{v}", "我是一名{v}", "我还在当{v}"),
        "pet": ("我养了{v}", "我的宠物是{v}", "我家的{v}正坐在我脚边"),
        "friend": ("我的朋友是{v}", "我最好的朋友是{v}", "今天我的朋友{v}来了"),
        "food": ("我喜欢吃{v}", "我最爱吃{v}", "今天我又吃了我爱吃的{v}"),
        "born": ("我生于{v}年", "我是{v}年出生的", "你知道，我出生在{v}年"),
    },
}  # fmt: skip
"""What people write of themselves."""

ASKS: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "person.town": ("Where does {s} live", "In which town does {s} live", "What is the home town of {s}"),
        "person.job": ("What is {p} job", "What does {s} do for a living", "What does {s} work as"),
        "person.pet": ("What pet does {s} have", "What is {p} pet", "Which animal does {s} keep"),
        "person.friend": ("Who is {p} friend", "Who is the friend of {s}", "Which friend does {s} have"),
        "person.food": ("What does {s} like to eat", "What is {p} favourite food", "What does {s} love to eat"),
        "person.born": ("When was {s} born", "In which year was {s} born", "What is {p} year of birth"),
        "town.region": ("In which region is {s}", "Where is {s}", "In which part of the country is {s}"),
        "town.river": ("Which river runs through {s}", "What is the river in {s}", "On which river does {s} stand"),
        "town.craft": ("What is {s} known for", "What is the craft of {s}", "What do people make in {s}"),
        "animal.eats": ("What does {s} eat", "What is the food of {s}", "What does {s} live on"),
        "animal.habitat": ("Where does {s} live", "What is the home of {s}", "Where can you meet {s}"),
        "animal.colour": ("What colour is {s}", "What is the colour of {s}", "Which colour does {s} have"),
        "thing.material": ("What is {s} made of", "What is the material of {s}", "What do people make {s} out of"),
        "thing.use": ("What is {s} used for", "What is the use of {s}", "What is {s} for"),
        "thing.colour": ("What colour is {s}", "What is the colour of {s}", "Which colour does {s} have"),
    },
    "zh": {
        "person.town": ("{s}住在哪里", "{s}的家在哪里", "{s}住在哪个镇"),
        "person.job": ("{s}做什么工作", "{s}是做什么的", "{s}的工作是什么"),
        "person.pet": ("{s}养什么宠物", "{s}养了什么动物", "{s}的宠物是什么"),
        "person.friend": ("{s}的朋友是谁", "谁是{s}的朋友", "{s}有哪个朋友"),
        "person.food": ("{s}喜欢吃什么", "{s}爱吃什么", "{s}最爱吃的是什么"),
        "person.born": ("{s}哪年出生", "{s}是哪年出生的", "{s}生于哪一年"),
        "town.region": ("{s}在哪个地区", "{s}在哪里", "{s}在哪一方"),
        "town.river": ("哪条河流过{s}", "流过{s}的是哪条河", "{s}的河叫什么"),
        "town.craft": ("{s}以什么出名", "{s}的特产是什么", "{s}的人会做什么"),
        "animal.eats": ("{s}吃什么", "{s}的食物是什么", "{s}爱吃什么"),
        "animal.habitat": ("{s}住在哪里", "{s}的家在哪里", "在哪里能看见{s}"),
        "animal.colour": ("{s}是什么颜色", "{s}的颜色是什么", "{s}是什么颜色的"),
        "thing.material": ("{s}是用什么做的", "{s}的材料是什么", "做{s}要用什么"),
        "thing.use": ("{s}用来做什么", "{s}的用处是什么", "{s}有什么用"),
        "thing.colour": ("{s}是什么颜色", "{s}的颜色是什么", "{s}是什么颜色的"),
    },
}  # fmt: skip

DENIES: dict[Language, dict[str, str]] = {
    "en": {
        "person.town": "{S} does not live in {v}", "person.job": "{S} is not {v}",
        "person.pet": "{S} does not have {v}",
        "person.friend": "{P} friend is not {v}", "person.food": "{S} does not like to eat {v}",
        "person.born": "{S} was not born in {v}", "town.region": "{S} is not in the {v}",
        "town.river": "The {v} does not run through {s}", "town.craft": "{S} is not known for its {v}",
        "animal.eats": "{S} does not eat {v}", "animal.habitat": "{S} does not live in the {v}",
        "animal.colour": "{S} is not {v}", "thing.material": "{S} is not made of {v}",
        "thing.use": "{S} is not used for {v}", "thing.colour": "{S} is not {v}",
    },
    "zh": {
        "person.town": "{s}不住在{v}", "person.job": "{s}不是{v}", "person.pet": "{s}没有养{v}",
        "person.friend": "{s}的朋友不是{v}",
        "person.food": "{s}不喜欢吃{v}", "person.born": "{s}不是生于{v}年", "town.region": "{s}不在{v}",
        "town.river": "{v}没有流过{s}", "town.craft": "{s}不以{v}出名", "animal.eats": "{s}不吃{v}",
        "animal.habitat": "{s}不住在{v}",
        "animal.colour": "{s}不是{v}的", "thing.material": "{s}不是用{v}做的", "thing.use": "{s}不用来{v}",
        "thing.colour": "{s}不是{v}的",
    },
}  # fmt: skip

LABELS: dict[Language, dict[str, str]] = {
    "en": {
        "name": "name", "town": "town", "job": "job", "pet": "pet", "friend": "friend", "food": "food", "born": "born",
        "region": "region", "river": "river", "craft": "craft", "eats": "eats", "habitat": "home", "colour": "colour",
        "material": "material", "use": "use",
    },
    "zh": {
        "name": "名字", "town": "城镇", "job": "工作", "pet": "宠物", "friend": "朋友", "food": "食物", "born": "出生",
        "region": "地区", "river": "河流", "craft": "特产", "eats": "食物", "habitat": "住处", "colour": "颜色",
        "material": "材料", "use": "用处",
    },
}  # fmt: skip
"""Names of fields, for cards and extraction."""
