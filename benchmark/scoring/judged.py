"""Metrics that a judge gives: a model that looks at images, and answers by a rubric.

As `metrics`: instances of a frozen dataclass. Which judge it is, the protocol's `encoder` says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from benchmark.api import PIXELS, REFERENCES, TEXTS, Batch, Unscored
from benchmark.scoring.questions import Question
from benchmark.scoring.rubric import Rubric, load_rubric
from benchmark.store.answers import Answer


@dataclass(frozen=True)
class Judged:
    """What a judge answers about an image by a rubric, on the rubric's scale.

    An answer that cannot be read is asked for once more. Then the image is unscored, with the
    answer in the reason: no number is ever guessed.
    """

    label: str
    about: str
    description: str
    rubric: str  #: one of ours by name, or a TOML file
    encoder: str = "judge"
    higher_is_better: bool | None = True

    @property
    def version(self) -> str:
        """Rises with the way that answers are used, and with every word of the rubric."""
        return f"2 {self._rubric.label}"

    @property
    def needs(self) -> frozenset[str]:
        """A judge's answers, and what the rubric shows it."""
        needs = {PIXELS, f"{self.encoder}:answers"}
        if self._rubric.shows_references:
            needs.add(REFERENCES)
        if self._rubric.names_prompt:
            needs.add(TEXTS)
        return frozenset(needs)

    def check(self) -> None:
        """Raise UserError if the rubric's texts are not here."""
        self._rubric.check()

    def __call__(self, batch: Batch) -> dict[int, float | Unscored]:
        """{image index: score} of the evaluation prompts' images.

        And of the real images, where the rubric asks about the subject and not about a prompt.
        """
        rubric, scores, questions = self._rubric, dict[int, float | Unscored](), {}
        for i in batch.of_kind(prior=False, real=not rubric.names_prompt):
            question = self._question(batch, i)
            if isinstance(question, Unscored):
                scores[i] = question
            else:
                questions[i] = question
        answers = batch.answers(self.encoder, questions)
        unread = {i: a for i, a in answers.items() if isinstance(a, Answer) and _again(rubric, a)}
        again = {
            i: rubric.again(replace(questions[i], attempt=answer.attempt), answer.reply)
            for i, answer in unread.items()
        }
        answers = {**answers, **(batch.answers(self.encoder, again) if again else {})}
        for i, answer in answers.items():
            scores[i] = answer if isinstance(answer, Unscored) else _score(rubric, answer)
        return dict(sorted(scores.items()))

    @property
    def _rubric(self) -> Rubric:
        return load_rubric(self.rubric)

    def _question(self, batch: Batch, i: int) -> Question | Unscored:
        references: list[np.ndarray] = []
        if self._rubric.shows_references:
            known = zip(batch.references(), batch.same[i], strict=True)
            references = [reference for reference, same in known if not same]
            if not references:
                return Unscored("the only reference is this image itself")
        values = {"noun": batch.subject.class_noun}
        if self._rubric.names_prompt:
            values["prompt"] = str(batch.texts()[i])
        return self._rubric.question(batch.pixels()[i], references, values)


def _again(rubric: Rubric, answer: Answer) -> bool:
    return not answer.reply.refused and rubric.read(answer.reply) is None


def _score(rubric: Rubric, answer: Answer) -> float | Unscored:
    found = None if answer.reply.refused else rubric.read(answer.reply)
    return Unscored(rubric.why_unread(answer.reply)) if found is None else found


IDENTITY = Judged(
    "judged identity",
    "subject fidelity",
    "whether a judge recognises the very subject, 0 to 4",
    rubric="likeness",
)
PROMPT = Judged(
    "judged prompt",
    "prompt fidelity",
    "whether a judge sees all that the prompt says, 0 to 4",
    rubric="prompt",
)
VQASCORE = Judged(
    "VQAScore",
    "prompt fidelity",
    "how probably a judge says that the image shows the prompt, 0 to 1",
    rubric="probability-of-yes",
)
DREAMBENCH_PLUS_CONCEPT = Judged(
    "DreamBench++ CP",
    "subject fidelity",
    "DreamBench++'s concept preservation by a judge, 0 to 4",
    rubric="dreambench-plus-concept",
)
DREAMBENCH_PLUS_PROMPT = Judged(
    "DreamBench++ PF",
    "prompt fidelity",
    "DreamBench++'s prompt following by a judge, 0 to 4",
    rubric="dreambench-plus-prompt",
)
VIESCORE_SC = Judged(
    "VIEScore SC",
    "subject and prompt fidelity",
    "VIEScore's semantic consistency by a judge: the lesser of prompt and subject, 0 to 10",
    rubric="viescore-sc",
)
VIESCORE_PQ = Judged(
    "VIEScore PQ",
    "image quality",
    "VIEScore's perceptual quality by a judge, 0 to 10",
    rubric="viescore-pq",
)
