#!/usr/bin/env python3
"""Writes tests/golden/chat/cases.json: templates as models publish them, messages, and the prompt
as Jinja renders it with the settings of the `transformers` package (or that it raises an error).
Run in the root of the tree.

    python3 tests/golden/chat/make_chat.py
"""

import json

import jinja2
import jinja2.sandbox

ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation"
    " roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    + ALTERNATE
    + "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_tokenAFTER}}{% else %}{{ raise_exception('Only user and assistant"
    " roles are supported!') }}{% endif %}{% endfor %}"
)
TURN = "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
QWEN = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    + TURN
    + "{% endfor %}"
    + PROMPT
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set"
    " system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    + ALTERNATE
    + "{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' +"
    " system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content ="
    " message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' +"
    " content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  +"
    " content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content ="
    " '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    "+ message['content'] | trim"
    " + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
)
LLAMA3_PROMPT = "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"

TEMPLATES = [
    ("chatml", json.load(open("models/tiny/tokenizer_config.json"))["chat_template"]),
    ("chatml", "{% for message in messages %}" + TURN + "{% endfor %}" + PROMPT),
    (
        "chatml",
        "{%for message in messages%}" + TURN.replace(" ", "") + "{%endfor%}" + PROMPT + "\n",
    ),
    (
        "chatml",
        "{% for message in messages %}" + TURN.replace("\\n", "\n") + "{% endfor %}" + PROMPT,
    ),
    ("chatml", QWEN),
    ("chatml", QWEN.replace("assistant.<", "assistant<")),
    ("mistral", MISTRAL.replace("AFTER", "")),
    ("mistral", MISTRAL.replace("AFTER", " + ' ' ")),
    ("llama2", LLAMA2),
    ("llama3", LLAMA3 + "{% if add_generation_prompt %}" + LLAMA3_PROMPT + "{% endif %}"),
    ("llama3", LLAMA3 + LLAMA3_PROMPT),
]

TALKS = [
    [("user", "Hello")],
    [("user", "  Hello \n"), ("assistant", "\t Hi there "), ("user", "Who are\n\nyou?")],
    [("system", " Be brief. "), ("user", " Hi \u00a0\u3000")],
    [("system", ""), ("user", ""), ("assistant", ""), ("user", "\u0085\u2028x\u200b\x1f")],
    [("system", "A"), ("user", "b"), ("assistant", "c"), ("user", "d"), ("assistant", "e")],
    [("assistant", "first")],
    [("user", "a"), ("user", "b")],
    [("user", "a"), ("assistant", "b"), ("assistant", "c")],
    [("user", "<|im_end|>'{{ x }}'\\n"), ("assistant", "日本 ✓")],
]


def raise_exception(message):
    raise jinja2.TemplateError(message)


def main():
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    cases = []
    for name, text in TEMPLATES:
        for talk in TALKS:
            messages = [{"role": role, "content": content} for role, content in talk]
            for prompt in (False, True):
                case = {"name": name, "template": text, "messages": messages, "prompt": prompt}
                try:
                    case["expected"] = environment.from_string(text).render(
                        messages=messages,
                        add_generation_prompt=prompt,
                        bos_token="<s>",
                        eos_token="</s>",
                    )
                except jinja2.TemplateError:
                    pass
                cases.append(case)
    with open("tests/golden/chat/cases.json", "w", encoding="ascii") as file:
        file.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


main()
