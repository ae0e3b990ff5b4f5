"""Requests for JSON by a schema or for a tool call. Every field is bounded, so that any whole answer is short."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from tri_serve.load.scenario.models import Language, Structured
from tri_serve.load.workload.items import Check, Item
from tri_serve.load.workload.lengths import draw
from tri_serve.load.workload.salt import Salts
from tri_serve.load.workload.setting import CHAT, Pool, Setting, asked, sampling

_Words = Mapping[Language, tuple[str, ...]]

_PEOPLE: _Words = {
    "ko": ("김서연", "이도윤", "박하은", "최지호", "정유나", "한민재", "오세린", "윤태경"),
    "en": ("Nora Whitfield", "Imran Dass", "Tess Oakley", "Leo Marchetti", "Ada Kowal", "Finn Barlow"),
    "ja": ("佐々木美咲", "高橋悠真", "小川千夏", "村上蓮", "石田由衣", "藤原航"),
}
_THINGS: _Words = {
    "ko": ("무선 키보드", "등산 양말", "보온 물병", "접이식 우산", "원두커피", "캠핑 의자", "탁상시계"),
    "en": ("desk lamp", "rain jacket", "coffee grinder", "bicycle bell", "notebook", "garden hose"),
    "ja": ("電気ケトル", "登山靴", "折りたたみ傘", "緑茶", "卓上カレンダー", "毛布"),
}
_CITIES: _Words = {
    "ko": ("서울", "부산", "대전", "광주", "강릉", "제주"),
    "en": ("Leeds", "Austin", "Dublin", "Perth", "Ottawa", "Cork"),
    "ja": ("札幌", "仙台", "金沢", "名古屋", "松山", "那覇"),
}
_TASKS: _Words = {
    "ko": (
        "{person} 고객이 {city}에서 {thing} {number}개를 주문했습니다. {hour}시 이후에 받고 싶다고 합니다."
        " 주문 내용을 정리하세요.",
        "{city} 매장에서 {person} 고객이 {thing} {number}개를 반품했습니다. 접수 시각은 {hour}시입니다."
        " 접수 내용을 정리하세요.",
        "{hour}시에 {city}로 {thing} {number}개를 보내 달라는 {person} 고객의 전화가 있었습니다."
        " 기록으로 남기세요.",
    ),
    "en": (
        "{person} of {city} ordered {number} of the {thing} and will be at home after {hour}:00. Note the order.",
        "At {hour}:00 {person} returned {number} of the {thing} to the shop in {city}. Write the return down.",
        "{person} rang: please send {number} of the {thing} to {city} before {hour}:00. Make a record of the call.",
    ),
    "ja": (
        "{city}の{person}様から{thing}を{number}個ご注文いただきました。{hour}時以降の配達をご希望です。注文を整理してください。",
        "{person}様が{city}店で{thing}を{number}個返品されました。受付は{hour}時です。内容を記録してください。",
        "{hour}時までに{thing}を{number}個、{city}へ送ってほしいと{person}様から電話がありました。記録してください。",
    ),
}

TOOL = "record_order"
_TOKENS = 512
"""About as many as a prompt with its schema has."""


def schema(language: Language) -> dict[str, Any]:
    """What is asked for: strings from lists and whole numbers alone. A free string is the one thing in JSON that
    a model may go on with until it runs out of tokens."""
    return {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": ["order", "return", "call"]},
            "customer": {"type": "string", "enum": list(_PEOPLE[language])},
            "item": {"type": "string", "enum": list(_THINGS[language])},
            "quantity": {"type": "integer", "enum": list(range(1, 21))},
            "city": {"type": "string", "enum": list(_CITIES[language])},
            "hour": {"type": "integer", "enum": list(range(9, 21))},
            "urgent": {"type": "boolean"},
        },
        "required": ["kind", "customer", "item", "quantity", "city", "hour", "urgent"],
        "additionalProperties": False,
    }


@dataclass(frozen=True, slots=True)
class _Prompt:
    language: Language
    text: str
    tokens: int
    output: int


class StructuredSource:
    """Items of one ``structured`` part."""

    def __init__(self, part: Structured, setting: Setting) -> None:
        self._part, self._setting = part, setting
        self._schemas = {language: schema(language) for language in part.languages}
        self._pool = Pool(setting.pool_size(_TOKENS), self._prompt)

    def prepare(self) -> None:
        self._pool.prepare()

    def item(self, index: int, salts: Salts | None) -> Item:
        part, prompt = self._part, self._pool[index]
        salt = f"{salts.of(f'{part.name}/{index}')} " if salts else ""
        shape = self._schemas[prompt.language]
        form, check = _tool(shape) if part.form == "tools" else _response_format(shape)
        return Item(
            id=f"{part.name}-{index}",
            group=part.name,
            route=CHAT,
            body=asked(CHAT, salt + prompt.text)
            | sampling(prompt.output, part.temperature, ignore_eos=False)
            | form,
            # Tools are written into the prompt by the chat template, each by its own.
            input_tokens=0 if part.form == "tools" else self._setting.counted(prompt.tokens),
            output_tokens=prompt.output,
            check=check,
        )

    def remarks(self) -> list[str]:
        return []

    def _prompt(self, number: int) -> _Prompt:
        part, setting = self._part, self._setting
        random = setting.random(part.name, number)
        language = setting.language(part.languages, random)
        text = _task(language, random)
        if part.form == "json-schema":
            # Engines hold the answer to the schema; the model should know it too.
            text += "\nJSON schema: " + json.dumps(self._schemas[language], ensure_ascii=False)
        salt = f"{setting.salt} " if setting.salt else ""
        tokens = setting.tokenizer.count(salt + text) + setting.added(CHAT)
        return _Prompt(language, text, tokens, draw(part.output, random))


def _task(language: Language, random: Random) -> str:
    return random.choice(_TASKS[language]).format(
        person=random.choice(_PEOPLE[language]),
        thing=random.choice(_THINGS[language]),
        city=random.choice(_CITIES[language]),
        number=random.randint(1, 20),
        hour=random.randint(9, 20),
    )


def _response_format(shape: dict[str, Any]) -> tuple[dict[str, Any], Check]:
    named = {"name": TOOL, "schema": shape, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}}, Check(json_schema=shape)


def _tool(shape: dict[str, Any]) -> tuple[dict[str, Any], Check]:
    function = {"name": TOOL, "description": "Keeps an order, a return or a call.", "parameters": shape}
    # Named: engines take it without a tool parser for the model.
    choice = {"type": "function", "function": {"name": TOOL}}
    tools = [{"type": "function", "function": function}]
    return {"tools": tools, "tool_choice": choice}, Check(tool=TOOL)
