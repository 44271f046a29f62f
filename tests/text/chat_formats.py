"""Chat formats of real models, each with a small tokenizer of its model's kind, trained here.

The templates are those that the models' own tokenizer_config.json files carry: facts of public formats, as llama.cpp's
tests/test-chat-template.cpp and models/templates have them, vLLM's examples (Llama 3.2), chujiezheng/chat_templates (Qwen 2.5)
and the models' cards (Llama 2, Llama 3, Zephyr, Qwen 2). Parts about tools and pictures are left out of the longest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

FILES = Path(__file__).parent / "templates"
CORPUS = [
    "Hello there, how are you today? I am well, and the old captain said nothing for a long while.",
    "他们说汉语，也说英语。天下皆知美之为美，斯恶已。你好，今天怎么样？我很好。",
    "def add(a, b):\n    return a + b\n\n\nfor i in range(10):\n    print(add(i, 2 * i))\n",
    "You are a helpful assistant. user system model [INST] <<SYS>> Assistant: User: ",
    "  1. 12 + 30 = 42\n  2. 7 * 6 = 42\n\n- and so on...\n",
] * 4
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Format:
    """A template and the tokens that its model's vocabulary flags; ``kind`` is the kind of its tokenizer."""

    template: str
    kind: str
    special: tuple[str, ...]
    names: tuple[tuple[str, str], ...]
    end: str
    plain: tuple[str, ...] = ()
    """Added tokens that the vocabulary does not flag as special."""
    rstrip: bool = False
    system: bool = True
    opening: str = ""
    """What the template writes before an answer that its prompt does not have."""


ALTERNATE = "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
SPM = ("<unk>", "<s>", "</s>")
SPM_NAMES = (("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"))
IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
IM_NAMES = (("eos_token", "<|im_end|>"), ("pad_token", "<|endoftext|>"))
LLAMA_3 = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|start_header_id|>"),
    *("<|end_header_id|>", "<|eot_id|>"),
)
LLAMA_3_NAMES = (("bos_token", "<|begin_of_text|>"), ("eos_token", "<|eot_id|>"))
PHI = ("<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|end|>", "<|system|>", "<|user|>")
PHI_NAMES = (
    ("bos_token", "<s>"),
    ("eos_token", "<|endoftext|>"),
    ("pad_token", "<|endoftext|>"),
    ("unk_token", "<unk>"),
)

FORMATS = {
    "chatml": Format(  # teknium/OpenHermes-2.5-Mistral-7B
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "legacy",
        (*SPM, "<|im_start|>", "<|im_end|>"),
        (("bos_token", "<s>"), ("eos_token", "<|im_end|>"), ("unk_token", "<unk>"), ("pad_token", "</s>")),
        "<|im_end|>",
    ),
    "llama-2": Format(  # meta-llama/Llama-2-7b-chat-hf
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = "
        "messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
        "{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        + ALTERNATE
        + "{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + "
        "'\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        "legacy",
        SPM,
        SPM_NAMES,
        "</s>",
        opening=" ",
    ),
    "mistral-v0.2": Format(  # mistralai/Mistral-7B-Instruct-v0.2
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        + ALTERNATE
        + "{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}"
        "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
        "legacy",
        SPM,
        SPM_NAMES,
        "</s>",
        system=False,
    ),
    "mistral-large-2407": Format(  # the system message stands before the last question; [INST] is a control token
        (FILES / "mistral-large-2407.jinja").read_text(encoding="utf-8"),
        "first",
        (*SPM, "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
        SPM_NAMES,
        "</s>",
        opening=" ",
    ),
    "zephyr": Format(  # HuggingFaceH4/zephyr-7b-beta; its roles are plain text
        "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
        "legacy",
        SPM,
        (*SPM_NAMES, ("pad_token", "</s>")),
        "</s>",
    ),
    "gemma": Format(  # google/gemma-7b-it
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        + ALTERNATE
        + "{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
        "{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
        "gemma",
        ("<unk>", "<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        (("bos_token", "<bos>"), ("eos_token", "<eos>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")),
        "<end_of_turn>",
        plain=("\n\n", "\n\n\n", "  ", "    ", "<table>", "<b>"),
        system=False,
    ),
    "phi-3-mini": Format(  # microsoft/Phi-3-mini-4k-instruct of May 2024: every question opens its answer
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') %}"
        "{{'<|user|>' + '\n' + message['content'] + '<|end|>' + '\n' + '<|assistant|>' + '\n'}}"
        "{% elif (message['role'] == 'assistant') %}{{message['content'] + '<|end|>' + '\n'}}{% endif %}{% endfor %}",
        "legacy",
        (*SPM, *PHI),
        PHI_NAMES,
        "<|end|>",
        rstrip=True,
        system=False,
    ),
    "phi-3-small": Format(  # microsoft/Phi-3-small-8k-instruct: another token ends the whole
        "{{ bos_token }}{% for message in messages %}{{'<|' + message['role'] + '|>' + '\n' + message['content'] + '<|end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        "bytes",
        PHI,
        (("bos_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>"), ("pad_token", "<|endoftext|>")),
        "<|end|>",
    ),
    "llama-3": Format(  # meta-llama/Meta-Llama-3-8B-Instruct
        "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
        "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
        "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        "llama3",
        LLAMA_3,
        LLAMA_3_NAMES,
        "<|eot_id|>",
    ),
    "llama-3-first": Format(  # the same as it was published: it always asks for an answer
        "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
        "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
        "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
        "llama3",
        LLAMA_3,
        LLAMA_3_NAMES,
        "<|eot_id|>",
    ),
    "llama-3.2": Format(
        (FILES / "llama3.2.jinja").read_text(encoding="utf-8"), "llama3", LLAMA_3, LLAMA_3_NAMES, "<|eot_id|>"
    ),
    "qwen-2": Format(  # Qwen/Qwen2-7B-Instruct
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a "
        "helpful assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
        "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "qwen",
        IM,
        IM_NAMES,
        "<|im_end|>",
    ),
    "qwen-2.5": Format(
        (FILES / "qwen2.5.jinja").read_text(encoding="utf-8"),
        "qwen",
        IM,
        IM_NAMES,
        "<|im_end|>",
        plain=("<tool_call>", "</tool_call>", "<|fim_prefix|>"),
    ),
    "qwen-3": Format(  # puts empty thoughts before the last answer, which its prompt does not
        (FILES / "qwen3.jinja").read_text(encoding="utf-8"),
        "qwen",
        IM,
        IM_NAMES,
        "<|im_end|>",
        plain=("<tool_call>", "</tool_call>", "<think>", "</think>"),
        opening="<think>\n\n</think>\n\n",
    ),
    "granite-3.0": Format(
        (FILES / "granite-3.0.jinja").read_text(encoding="utf-8"),
        "bytes",
        ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>"),
        (("bos_token", "<|end_of_text|>"), ("eos_token", "<|end_of_text|>"), ("pad_token", "<|end_of_text|>")),
        "<|end_of_text|>",
    ),
    "deepseek-v2": Format(
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{{ bos_token }}"
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\n\n' }}"
        "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token }}"
        "{% elif message['role'] == 'system' %}{{ message['content'] + '\n\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
        "bytes",
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        (("bos_token", "<｜begin▁of▁sentence｜>"), ("eos_token", "<｜end▁of▁sentence｜>")),
        "<｜end▁of▁sentence｜>",
        opening=" ",
    ),
    "command-r": Format(  # CohereForAI/c4ai-command-r-plus
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = "
        "messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
        "{% if system_message != false %}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + system_message + "
        "'<|END_OF_TURN_TOKEN|>' }}{% endif %}{% for message in loop_messages %}{% set content = message['content'] %}"
        "{% if message['role'] == 'user' %}{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + "
        "'<|END_OF_TURN_TOKEN|>' }}{% elif message['role'] == 'assistant' %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'  + "
        "content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}",
        "bytes",
        (
            *("<PAD>", "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>"),
            *("<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
        ),
        (("bos_token", "<BOS_TOKEN>"), ("eos_token", "<|END_OF_TURN_TOKEN|>"), ("pad_token", "<PAD>")),
        "<|END_OF_TURN_TOKEN|>",
    ),
    "vicuna": Format(  # eachadea/vicuna-13b-1.1; it writes its end as text
        "{%- for message in messages %}{%- if message['role'] == 'system' -%}{{- '' + message['content'] + '\n\n' -}}{%- else -%}"
        "{%- if message['role'] == 'user' -%}{{-'USER: ' + message['content'] + '\n'-}}{%- else -%}{{-'ASSISTANT: ' + "
        "message['content'] + '</s>\n' -}}{%- endif -%}{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}"
        "{{-'ASSISTANT:'-}}{%- endif -%}",
        "legacy",
        SPM,
        SPM_NAMES,
        "</s>",
        opening=" ",
    ),
}


@cache
def pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """sentencepiece-like pieces and merges learnt from the corpus."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=500, show_progress=False))
    data = json.loads(backend.to_str())["model"]
    return data["vocab"], [tuple(pair) for pair in data["merges"]]


@cache
def byte_pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-level pieces and merges learnt from the corpus."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    )
    data = json.loads(backend.to_str())["model"]
    return data["vocab"], [tuple(pair) for pair in data["merges"]]


def backend_of(format: Format) -> tokenizers.Tokenizer:
    """A tokenizer of the format's kind with its tokens."""
    if format.kind in ("legacy", "first", "gemma"):
        learnt, merges = pieces()
        names = [*format.special[:3], *(f"<0x{byte:02X}>" for byte in range(256)), *learnt]
        vocabulary = {text: i for i, text in enumerate(dict.fromkeys(names))}
        backend = tokenizers.Tokenizer(
            models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        )
        decoding: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        if format.kind == "legacy":
            backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        elif format.kind == "first":
            backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        else:
            backend.normalizer = normalizers.Replace(" ", "▁")
            backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        if format.kind != "gemma":
            decoding.append(decoders.Strip(" ", 1, 0))
        backend.decoder = decoders.Sequence(decoding)
    else:
        backend = tokenizers.Tokenizer(models.BPE(*byte_pieces()))
        words = Regex(WORDS.replace("{1,3}", "") if format.kind == "qwen" else WORDS)
        if format.kind == "bytes":
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        else:
            backend.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
            )
        if format.kind == "qwen":
            backend.normalizer = normalizers.NFC()
        backend.decoder = decoders.ByteLevel()
        backend.post_processor = processors.ByteLevel(trim_offsets=format.kind == "llama3")
    backend.add_special_tokens(
        [AddedToken(t, normalized=False, special=True, rstrip=format.rstrip and t in PHI) for t in format.special]
    )
    backend.add_tokens([AddedToken(t, normalized=False, special=False) for t in format.plain])
    return backend


def write_folder(format: Format, folder: Path, *, template_file: bool = True) -> Path:
    """The format as a Hugging Face folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **dict(format.names)}
    if template_file:
        (folder / "chat_template.jinja").write_text(format.template, encoding="utf-8")
    else:
        config["chat_template"] = format.template
    backend_of(format).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
