"""Questions about long documents, as retrieval-augmented generation asks them."""

from __future__ import annotations

from dataclasses import dataclass

from tri_serve.load.scenario.models import Documents, Language
from tri_serve.load.workload.items import Item
from tri_serve.load.workload.lengths import draw, longest
from tri_serve.load.workload.salt import Salts
from tri_serve.load.workload.setting import Pool, Setting, route_of

_WORDS: dict[Language, tuple[str, str, str]] = {
    "ko": ("다음 문서를 읽고 마지막 질문에 답하세요.", "문서", "질문"),
    "en": ("Read these documents and answer the question at the end.", "Document", "Question"),
    "ja": ("次の文書を読んで、最後の質問に答えてください。", "文書", "質問"),
}


@dataclass(frozen=True, slots=True)
class _Prompt:
    language: Language
    documents: tuple[int, ...]
    question: str
    tokens: int
    output: int


class DocumentsSource:
    """Items of one ``documents`` part.

    Each document has its own salt for the run: a document that stands first in two prompts is found in the cache,
    as it is in life, and no document of the run before.
    """

    def __init__(self, part: Documents, setting: Setting) -> None:
        self._part, self._setting = part, setting
        self._route = route_of(part.route)
        self._documents = Pool(part.pool, self._document)
        most = part.documents * longest(part.document) + longest(part.question)
        self._pool = Pool(setting.pool_size(most), self._prompt)

    def prepare(self) -> None:
        self._pool.prepare()

    def item(self, index: int, salts: Salts | None) -> Item:
        part, prompt = self._part, self._pool[index]
        head = [salts.of(f"{part.name}/document {number}") if salts else "" for number in prompt.documents]
        text = self._text(prompt.language, prompt.documents, head, prompt.question)
        return self._setting.ask(part, index, text, tokens=prompt.tokens, output=prompt.output)

    def remarks(self) -> list[str]:
        size = self._pool.size
        return self._setting.again(self._part.name, f"{size} different prompts", size)

    def _text(self, language: Language, numbers: tuple[int, ...], salts: list[str], question: str) -> str:
        instruction, document, ask = _WORDS[language]
        parts = [
            f"[{document} {place}] {salt}{self._documents[number]}"
            for place, (number, salt) in enumerate(zip(numbers, salts, strict=True), start=1)
        ]
        # The instruction comes after the documents: before them it would be the one prefix that all share.
        return "\n\n".join((*parts, f"{instruction} {ask}: {question}"))

    def _document(self, number: int) -> str:
        return self._setting.passage(self._part, "document", number, self._part.document)

    def _prompt(self, number: int) -> _Prompt:
        part, setting = self._part, self._setting
        random = setting.random(part.name, number)
        language = setting.language(part.languages, random)
        output = draw(part.output, random)
        question = setting.sentences(language).write(draw(part.question, random), random)
        numbers = tuple(random.sample(range(part.pool), min(part.documents, part.pool)))
        while True:
            salts = [setting.salt] * len(numbers)
            text = self._text(language, numbers, salts, question)
            tokens = setting.tokenizer.count(text) + setting.added(self._route)
            fits = setting.context is None or tokens + output <= setting.context
            if fits or len(numbers) == 1:
                return _Prompt(language, numbers, question, tokens, output)
            numbers = numbers[:-1]
            setting.clipped[part.name] += 1
