"""The embedded world: who lives where, what animals eat, what things are made of.

A world is drawn from a seed, so nobody can know its facts but from its texts. Every entity and every value is a key, a
lower-case English word, and `World.name` gives its surface form in English or Chinese. No name of a person, a town or a
river is part of any other name or value, and no value of a relation is part of another value of it, in either language:
to look for one in an answer is then exact.

People come from two pools that never meet: those who live in the world, and strangers, who appear in single passages
only (`invented_names`, `invented_people`), so that nothing can be known of them but what the passage says.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from tutelage.errors import RecipeError

Language = Literal["en", "zh"]
Gender = Literal["f", "m"]
Kind = Literal["person", "town", "animal", "thing"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")

RELATIONS: dict[str, tuple[str, ...]] = {
    "person": ("town", "job", "pet", "friend", "food", "born"),
    "town": ("region", "river", "craft"),
    "animal": ("eats", "habitat", "colour"),
    "thing": ("material", "use", "colour"),
}


@dataclass(frozen=True)
class Name:
    """The surface forms of one key."""

    en: str
    zh: str

    def __getitem__(self, language: Language) -> str:
        return self.en if language == "en" else self.zh


@dataclass(frozen=True)
class Person:
    """`town`, `job`, `pet` (an animal), `friend` (a person) and `food` are keys."""

    key: str
    name: Name
    gender: Gender
    town: str
    job: str
    pet: str
    friend: str
    food: str
    born: int


@dataclass(frozen=True)
class Town:
    """`craft` is the key of the thing that the town is known for."""

    key: str
    name: Name
    region: str
    river: str
    craft: str


@dataclass(frozen=True)
class Animal:
    key: str
    name: Name
    eats: str
    habitat: str
    colour: str


@dataclass(frozen=True)
class Thing:
    key: str
    name: Name
    material: str
    use: str
    colour: str


Entity = Person | Town | Animal | Thing


def _table(text: str) -> dict[str, Name]:
    """`"baker 烘焙师, teacher 老师"` -> names by key."""
    pairs = (entry.split() for entry in text.split(","))
    return {en.lower(): Name(en, zh) for en, zh in pairs}


WOMEN = _table(
    "Anna 安娜, Mira 米拉, Nora 诺拉, Lena 莱娜, Delia 迪莉娅, Cora 科拉, Dina 迪娜, Edith 伊迪丝, Fiona 菲奥娜, "
    "Greta 格蕾塔, Helen 海伦, Irene 艾琳, Julia 朱莉娅, Karin 卡琳, Laura 劳拉, Lucy 露西, Maya 玛雅, Molly 莫莉, "
    "Nina 尼娜, Olga 奥尔加, Petra 佩特拉, Rita 丽塔, Rosa 罗莎, Ruth 鲁思, Sara 萨拉, Sofia 索菲娅, Tessa 特莎, "
    "Tina 蒂娜, Vera 薇拉, Wanda 旺达, Zoe 佐伊, Emma 艾玛, Alice 爱丽丝, Betty 贝蒂, Carol 卡萝尔, Elsa 艾尔莎, "
    "Frida 弗丽达, Gina 吉娜, Heidi 海蒂, Ingrid 英格丽德, Kira 基拉, Lydia 莉迪娅, Marta 玛尔塔, Naomi 内奥米, "
    "Polly 波莉, Ursula 厄休拉, Wilma 威尔玛, Sybil 西比尔"
)
MEN = _table(
    "Adam 亚当, Albert 艾伯特, Anton 安东, Boris 鲍里斯, Bruno 布鲁诺, Carlos 卡洛斯, Cyril 西里尔, David 大卫, "
    "Denis 丹尼斯, Edgar 埃德加, Emil 埃米尔, Erik 埃里克, Felix 费利克斯, Franz 弗朗茨, George 乔治, "
    "Gustav 古斯塔夫, Harry 哈里, Henry 亨利, Hugo 雨果, Ivan 伊万, Jacob 雅各布, Jonas 约纳斯, Kevin 凯文, Leo 利奥, "
    "Louis 路易斯, Lukas 卢卡斯, Martin 马丁, Max 马克斯, Milo 米洛, Nils 尼尔斯, Oliver 奥利弗, Oscar 奥斯卡, "
    "Otto 奥托, Paul 保罗, Peter 彼得, Rafael 拉斐尔, Robert 罗伯特, Simon 西蒙, Sven 斯文, Theo 西奥, Thomas 托马斯, "
    "Tom 汤姆, Victor 维克托, Walter 沃尔特, Yusuf 优素福, Samuel 塞缪尔, Omar 奥马尔, Pavel 帕维尔"
)
TOWNS = _table(
    "Ambry 安布里, Belmor 贝尔莫, Corvale 科维尔, Dunmere 邓米尔, Elsby 埃尔斯比, Fenwick 芬威克, Holmby 霍姆比, "
    "Ketton 凯顿, Lindow 林多, Marbury 马伯里, Norwell 诺维尔, Oakham 奥克汉, Pendle 彭德尔, Quenby 昆比, "
    "Ravensey 雷文西, Selton 塞尔顿, Thornby 索恩比, Ulver 乌尔弗, Wexley 韦克斯利, Yarrick 亚里克"
)
ANIMALS = _table(
    "otter 水獭, fox 狐狸, cat 小猫, dog 小狗, donkey 毛驴, goat 山羊, rabbit 兔子, duck 鸭子, crow 乌鸦, "
    "turtle 乌龟, frog 青蛙, hedgehog 刺猬, parrot 鹦鹉, monkey 猴子, squirrel 松鼠, eagle 老鹰"
)
THINGS = _table(
    "lantern 灯笼, basket 篮子, drum 小鼓, kite 风筝, bell 铃铛, chair 椅子, clock 时钟, cup 杯子, rug 地毯, "
    "hammer 锤子, flute 笛子, box 盒子, comb 梳子, mirror 镜子, ladder 梯子, spoon 勺子, hat 帽子, umbrella 雨伞, "
    "bottle 瓶子, table 桌子"
)
JOBS = _table(
    "baker 烘焙师, teacher 老师, doctor 医生, farmer 农民, painter 画家, singer 歌手, carpenter 木匠, sailor 水手, "
    "tailor 裁缝, nurse 护士, gardener 园丁, potter 陶工, writer 作家, driver 司机, smith 铁匠, cook 厨师"
)
FOODS = _table(
    "stew 炖菜, rice 米饭, bread 面包, noodles 面条, dumplings 饺子, apples 苹果, cheese 奶酪, pudding 布丁, "
    "beans 豆子, pancakes 煎饼, pie 馅饼, plums 李子, carrots 胡萝卜, tofu 豆腐, peaches 桃子, mushrooms 蘑菇"
)
COLOURS = _table("red 红色, blue 蓝色, green 绿色, yellow 黄色, white 白色, black 黑色, brown 棕色, grey 灰色")
MATERIALS = _table("wood 木头, clay 陶土, glass 玻璃, iron 钢铁, paper 纸, wool 羊毛, silver 银子")
USES = _table(
    "cooking 做饭, fishing 钓鱼, dancing 跳舞, painting 画画, sleeping 睡觉, singing 唱歌, rowing 划船, "
    "cleaning 打扫, reading 看书, farming 种地"
)
MEALS = _table(
    "fish 小鱼, grass 青草, seeds 种子, leaves 树叶, insects 虫子, berries 浆果, roots 草根, honey 蜂蜜, nuts 坚果, "
    "eggs 鸟蛋"
)
HABITATS = _table("forest 森林, lake 湖里, meadow 草地, desert 沙漠, cave 山洞, marsh 沼泽, garden 花园, valley 山谷")
REGIONS = _table("north 北方, south 南方, east 东方, west 西方")
RIVERS = _table(
    "Alda 阿尔达河, Brin 布林河, Corro 科罗河, Esk 埃斯克河, Garra 加拉河, Isel 伊瑟河, Lorn 洛恩河, Tavy 塔维河"
)
YEARS = range(1950, 2000)

_WORDS = JOBS | FOODS | COLOURS | MATERIALS | USES | MEALS | HABITATS | REGIONS | RIVERS


def _strangers() -> dict[str, tuple[Name, Gender]]:
    """Names put together of two syllables, without any that lies within, or around, a name of the world."""
    firsts = "Ba 巴, Do 多, Fa 法, Ga 加, Jo 乔, Ko 科, Lo 洛, Na 纳, Pi 皮, So 索, Va 瓦, Wi 威"
    lasts: tuple[tuple[Gender, str], ...] = (
        ("f", "na 娜, lia 莉, mai 麦"),
        ("m", "ric 里克, den 登, mund 蒙德"),
    )
    known = [name for table in (WOMEN, MEN, TOWNS, RIVERS, _WORDS, ANIMALS, THINGS) for name in table.values()]
    names: dict[str, tuple[Name, Gender]] = {}
    for first in firsts.split(","):
        for gender, endings in lasts:
            for last in endings.split(","):
                (en, zh), (en_end, zh_end) = first.split(), last.split()
                name = Name(en + en_end, zh + zh_end)
                if not any(_overlap(name.en.lower(), k.en.lower()) or _overlap(name.zh, k.zh) for k in known):
                    names[name.en.lower()] = (name, gender)
    return names


def _overlap(a: str, b: str) -> bool:
    return a in b or b in a


STRANGERS = _strangers()
"""Name and gender of every person that no world holds, by key."""
STRANGER_KEYS = tuple(STRANGERS)


@dataclass(frozen=True)
class World:
    seed: int
    people: dict[str, Person]
    towns: dict[str, Town]
    animals: dict[str, Animal]
    things: dict[str, Thing]
    words: dict[str, Name]
    """Every key that is not an entity: jobs, foods, colours, rivers, regions, uses, ..."""
    pools: dict[str, tuple[str, ...]] = field(repr=False)
    """relation -> every value that it can have in this world."""

    def subjects(self, kind: str) -> Mapping[str, Entity]:
        """The entities of a kind, one of the keys of RELATIONS."""
        tables: dict[str, Mapping[str, Entity]] = {
            "person": self.people,
            "town": self.towns,
            "animal": self.animals,
            "thing": self.things,
        }
        return tables[kind]

    def kind(self, key: str) -> str:
        """The kind of an entity of this world; KeyError for any other key."""
        if key in self.people:
            return "person"
        if key in self.towns:
            return "town"
        if key in self.animals:
            return "animal"
        if key in self.things:
            return "thing"
        raise KeyError(key)

    def entity(self, key: str) -> Entity:
        return self.subjects(self.kind(key))[key]

    def name(self, key: str, language: Language) -> str:
        """The surface form of any key: an entity, a word, a stranger, or a year."""
        if key in self.words:
            name = self.words[key]
        elif key.isdigit():
            return key
        elif key in STRANGERS:
            name = STRANGERS[key][0]
        else:
            name = self.entity(key).name
        return name.en if language == "en" else name.zh

    def value(self, subject: str, relation: str) -> str:
        """The key of the value of a relation; of `born`, the year as a string."""
        return str(getattr(self.entity(subject), relation))

    def alternatives(self, relation: str, *, besides: str) -> list[str]:
        """Every value that the relation can have but `besides`: plausible wrong answers."""
        return [key for key in self.pools[relation] if key != besides]

    def facts(self) -> Iterator[tuple[str, str, str]]:
        """Every (subject, relation, value) of the world."""
        for kind, relations in RELATIONS.items():
            for subject in self.subjects(kind):
                for relation in relations:
                    yield subject, relation, self.value(subject, relation)


def make_world(seed: int, *, people: int = 64, towns: int = 14, values: int = 20) -> World:
    """Draw a world. `values`: most animals, things, jobs, foods, years and so on that it has, of each.

    The same seed and sizes give the same world; RecipeError where the names do not suffice.
    """
    if not 2 <= people <= len(WOMEN) + len(MEN):
        raise RecipeError(f"world.people is {people}; choose 2 to {len(WOMEN) + len(MEN)}")
    if not 1 <= towns <= len(TOWNS):
        raise RecipeError(f"world.towns is {towns}; choose 1 to {len(TOWNS)}")
    if values < towns:
        raise RecipeError(
            f"world.values is {values}, but each of {towns} towns has a craft of its own; give at least {towns}"
        )
    rng = random.Random(f"{seed}:world")

    def some(pool: Iterable[str]) -> list[str]:
        every = sorted(pool)
        return sorted(rng.sample(every, min(values, len(every))))

    person_keys = sorted(rng.sample(sorted(WOMEN | MEN), people))
    town_keys = sorted(rng.sample(sorted(TOWNS), towns))
    things, years = some(THINGS), some(map(str, YEARS))
    crafts = rng.sample(things, towns)
    circle = rng.sample(person_keys, people)
    friends = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    jobs, foods, pets, rivers = some(JOBS), some(FOODS), some(ANIMALS), some(RIVERS)
    colours, meals, habitats = some(COLOURS), some(MEALS), some(HABITATS)
    materials, uses, regions = some(MATERIALS), some(USES), some(REGIONS)
    draw = rng.choice
    return World(
        seed=seed,
        people={
            key: Person(
                key, (WOMEN | MEN)[key], "f" if key in WOMEN else "m",
                draw(town_keys), draw(jobs), draw(pets), friends[key], draw(foods), int(draw(years)),
            )
            for key in person_keys
        },
        towns={
            key: Town(key, TOWNS[key], draw(regions), draw(rivers), craft)
            for key, craft in zip(town_keys, crafts, strict=True)
        },
        animals={key: Animal(key, ANIMALS[key], draw(meals), draw(habitats), draw(colours)) for key in pets},
        things={key: Thing(key, THINGS[key], draw(materials), draw(uses), draw(colours)) for key in things},
        words=dict(sorted(_WORDS.items())),
        pools={
            "town": tuple(town_keys), "job": tuple(jobs), "pet": tuple(pets), "friend": tuple(person_keys),
            "food": tuple(foods), "born": tuple(years), "region": tuple(regions), "river": tuple(rivers),
            "craft": tuple(things), "eats": tuple(meals), "habitat": tuple(habitats), "colour": tuple(colours),
            "material": tuple(materials), "use": tuple(uses),
        },
    )  # fmt: skip


def invented_names(rng: random.Random, n: int, language: Language) -> list[str]:
    """n different names of people that no world holds; ValueError beyond `len(STRANGERS)`."""
    return [STRANGERS[key][0][language] for key in rng.sample(STRANGER_KEYS, n)]


def invented_people(world: World, rng: random.Random, n: int) -> list[Person]:
    """n different strangers with values drawn from the world's pools; each one's friend is a further stranger.

    `World.name` knows their keys, `World.value` does not: they are in no world.
    """
    keys = rng.sample(STRANGER_KEYS, n + 1)

    def draw(relation: str) -> str:
        return rng.choice(world.pools[relation])

    return [
        Person(key, *STRANGERS[key], draw("town"), draw("job"), draw("pet"), friend, draw("food"), int(draw("born")))
        for key, friend in pairwise(keys)
    ]
