"""The images of one method, subject and seed, as metrics see them: `api.Batch`.

`ImageBatch` has everything; a metric gets a `DeclaredBatch`, which has what its `needs` declare.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from benchmark.api import (
    GALLERY,
    PIXELS,
    PRIOR,
    REAL,
    REFERENCES,
    TEXTS,
    Gallery,
    Prompt,
    Request,
    Subject,
    Unscored,
    UserError,
)
from benchmark.data.masks import read_mask
from benchmark.scoring.features import Encoders
from benchmark.scoring.gallery import References
from benchmark.scoring.kinds import ANSWERS, DISTANCES, EMBEDDINGS, TEXT_EMBEDDINGS
from benchmark.scoring.questions import Question
from benchmark.scoring.views import Seen, Viewer
from benchmark.store.answers import Answer


def need(encoder: str, ability: str) -> str:
    """What a metric's `needs` say to ask `encoder` for one of `kinds.ABILITIES`."""
    return encoder if ability == EMBEDDINGS else f"{encoder}:{ability}"


@dataclass
class Consulted:
    """What judges have answered to one metric."""

    answers: set[str] = field(default_factory=set)  #: by key
    complete: bool = True  #: no answer is wanting that may yet come


@dataclass(frozen=True)
class ImageBatch:
    """`images[i]` was made for `requests[i]`. Everything is computed once, when it is asked for."""

    requests: Sequence[Request]
    subject: Subject
    images: Sequence[np.ndarray]  #: n uint8 (height, width, 3)
    captions: Sequence[str | None]  #: n
    real_images: Sequence[np.ndarray]  #: all of the subject's
    counted: Sequence[int]  #: which of these are the m references
    encoders: Encoders
    looked_at: Collection[int] | None = None  #: real images that the method looked at; None: all
    viewers: Mapping[str, Viewer] = field(default_factory=dict)  #: of encoders with a view
    all_references: References | None = None  #: every subject's, where a metric ranks among them
    #: metric -> what judges answered to it, and whether all of them did
    consulted: dict[str, Consulted] = field(default_factory=dict)
    _found: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    _seen: dict[tuple[str, str], Seen] = field(default_factory=dict)

    @cached_property
    def same(self) -> np.ndarray:
        """(n, m) bool: real image i and reference j are one photograph.

        They are if j is the file that i was read from, or another with the same pixels: the upper
        bound is how alike two photographs of the subject are, and one that is there twice is still
        one. A generated image is no reference, however like one: a copy counts in full.
        """
        pairs = [
            request.prompt.kind == REAL
            and (request.index == index or np.array_equal(image, reference))
            for request, image in zip(self.requests, self.images, strict=True)
            for index, reference in zip(self.counted, self.references(), strict=True)
        ]
        same = np.array(pairs, bool).reshape(len(self.images), len(self.counted))
        same.flags.writeable = False
        return same

    @cached_property
    def seen(self) -> np.ndarray:
        """(m,) bool: the method has looked at reference j, or at another with the same pixels."""
        looked_at = range(len(self.real_images)) if self.looked_at is None else self.looked_at
        seen = np.array(
            [
                index in looked_at
                or any(np.array_equal(self.real_images[other], reference) for other in looked_at)
                for index, reference in zip(self.counted, self.references(), strict=True)
            ],
            bool,
        )
        seen.flags.writeable = False
        return seen

    def of_kind(self, *, prior: bool, real: bool) -> list[int]:
        """The prior prompt's images, or else the evaluation prompts', and `real` ones if wanted."""
        kinds = [request.prompt.kind for request in self.requests]
        if prior:
            return [i for i, kind in enumerate(kinds) if kind == PRIOR]
        return [i for i, kind in enumerate(kinds) if kind != PRIOR and (real or kind != REAL)]

    def embeddings(self, encoder: str) -> np.ndarray:
        """(n, d) float32 of unit length, of the images; 0 where a view did not find the subject."""
        return self._once("images", encoder, lambda: self._images_through(encoder))

    def reference_embeddings(self, encoder: str) -> np.ndarray:
        """(m, d) float32 of unit length, of the references."""
        return self._once("references", encoder, lambda: self._references_through(encoder))

    def text_embeddings(self, encoder: str) -> np.ndarray:
        """(n, d) float32 of unit length, of the captions; rows of real images are 0."""
        return self._once("texts", encoder, lambda: self._texts_through(encoder))

    def distances(self, encoder: str) -> np.ndarray:
        """(n, n) float32 >= 0, between the images of a prompt; NaN elsewhere, and of real ones."""
        return self._once("distances", encoder, lambda: self._distances_through(encoder))

    def gallery(self, encoder: str) -> Gallery:
        """The references of every subject of the data set. Raises UserError if there is none."""
        if self.all_references is None:
            raise UserError(
                "there is no data set here among whose subjects a metric could rank: leave the "
                "metric out"
            )
        owners = self.all_references.owners
        own = [i for i, owner in enumerate(owners) if owner.name == self.subject.name]
        same = np.zeros((len(self.images), len(owners)), bool)
        same[:, own] = self.same
        same.flags.writeable = False
        return Gallery(tuple(owners), self.all_references.seen_by(encoder), same)

    def without_subject(self, encoder: str) -> list[int]:
        """The images in which the view of `encoder` did not find the subject."""
        return np.flatnonzero(~self._drawn(encoder).found).tolist()

    def references_without_subject(self, encoder: str) -> list[str]:
        """The same of references, by the names of their files."""
        found = self._real(encoder).found
        return [self.subject.images[index].name for index in self.counted if not found[index]]

    def answers(
        self, metric: str, judge: str, questions: Mapping[int, Question]
    ) -> dict[int, Answer | Unscored]:
        """What the judge answers to `metric`, image by image, or why there is no answer now."""
        answers = self.encoders.answers(judge, [*questions.values()])
        consulted = self.consulted.setdefault(metric, Consulted())
        for answer in answers:
            if isinstance(answer, Answer):
                consulted.answers |= {answer.key, *answer.after}
            else:
                consulted.complete = False
        return dict(zip(questions, answers, strict=True))

    def pixels(self) -> Sequence[np.ndarray]:
        """The images."""
        return self.images

    def references(self) -> Sequence[np.ndarray]:
        """The m references."""
        return [self.real_images[index] for index in self.counted]

    def texts(self) -> Sequence[str | None]:
        """The captions."""
        return self.captions

    def _once(self, what: str, encoder: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        key = what, encoder
        if key not in self._found:
            self._found[key] = compute()
            self._found[key].flags.writeable = False
        return self._found[key]

    def _images_through(self, encoder: str) -> np.ndarray:
        if encoder not in self.viewers:
            return self.encoders.embeddings(encoder, self.images)
        seen = self._drawn(encoder)
        rows = self.encoders.embeddings(encoder, seen.images).copy()
        rows[~seen.found] = 0
        return rows

    def _references_through(self, encoder: str) -> np.ndarray:
        shown: Sequence[np.ndarray] = self.real_images
        if encoder in self.viewers:
            shown = self._real(encoder).images
        # All are encoded, whichever count: last digits depend on the whole list.
        return self.encoders.remembered_embeddings(encoder, shown)[list(self.counted)]

    def _drawn(self, encoder: str) -> Seen:
        """The images, as the encoder's view shows them."""
        viewer, key = self.viewers[encoder], ("images", self.viewers[encoder].name)
        if key not in self._seen:
            real = [r.index if r.prompt.kind == REAL else None for r in self.requests]
            own = [None if index is None else self._own_mask(index) for index in real]
            self._seen[key] = viewer.see(self.images, self.subject.class_noun, own)
        return self._seen[key]

    def _real(self, encoder: str) -> Seen:
        """The subject's images, as the encoder's view shows references."""
        viewer, key = self.viewers[encoder], ("references", self.viewers[encoder].name)
        if key not in self._seen:
            own = [self._own_mask(index) for index in range(len(self.real_images))]
            self._seen[key] = viewer.see_references(self.real_images, self.subject.class_noun, own)
        return self._seen[key]

    def _own_mask(self, index: int) -> np.ndarray | None:
        """The user's mask of one of the subject's images."""
        return read_mask(self.subject.masks[index]) if self.subject.masks else None

    def _texts_through(self, encoder: str) -> np.ndarray:
        unique = [text for text in dict.fromkeys(self.captions) if text is not None]
        encoded = self.encoders.text_embeddings(encoder, unique or [""])
        rows = np.zeros((len(self.captions), encoded.shape[1]), np.float32)
        for row, text in zip(rows, self.captions, strict=True):
            if text is not None:
                row[:] = encoded[unique.index(text)]
        return rows

    def _distances_through(self, encoder: str) -> np.ndarray:
        groups: dict[Prompt, list[int]] = {}
        for i, request in enumerate(self.requests):
            if request.prompt.kind != REAL:
                groups.setdefault(request.prompt, []).append(i)
        return self.encoders.distances(encoder, self.images, list(groups.values()))


@dataclass(frozen=True)
class DeclaredBatch:
    """A batch as one metric sees it. Raises UserError where it asks for what it did not declare."""

    whole: ImageBatch
    metric: str
    needs: frozenset[str]

    @property
    def requests(self) -> Sequence[Request]:
        """n, in the order of the images."""
        return self.whole.requests

    @property
    def subject(self) -> Subject:
        """Whose images these are meant to be."""
        return self.whole.subject

    @property
    def same(self) -> np.ndarray:
        """(n, m) bool: image i is a real one, and reference j itself."""
        return self.whole.same

    @property
    def seen(self) -> np.ndarray:
        """(m,) bool: the method has looked at reference j."""
        return self.whole.seen

    def of_kind(self, *, prior: bool, real: bool) -> list[int]:
        """As `ImageBatch.of_kind`; so do the others."""
        return self.whole.of_kind(prior=prior, real=real)

    def embeddings(self, encoder: str) -> np.ndarray:
        return self._declared(need(encoder, EMBEDDINGS)).embeddings(encoder)

    def reference_embeddings(self, encoder: str) -> np.ndarray:
        return self._declared(need(encoder, EMBEDDINGS)).reference_embeddings(encoder)

    def text_embeddings(self, encoder: str) -> np.ndarray:
        return self._declared(need(encoder, TEXT_EMBEDDINGS)).text_embeddings(encoder)

    def distances(self, encoder: str) -> np.ndarray:
        return self._declared(need(encoder, DISTANCES)).distances(encoder)

    def gallery(self, encoder: str) -> Gallery:
        return self._declared(need(encoder, GALLERY)).gallery(encoder)

    def answers(
        self, judge: str, questions: Mapping[int, Question]
    ) -> dict[int, Answer | Unscored]:
        return self._declared(need(judge, ANSWERS)).answers(self.metric, judge, questions)

    def pixels(self) -> Sequence[np.ndarray]:
        return self._declared(PIXELS).pixels()

    def references(self) -> Sequence[np.ndarray]:
        return self._declared(REFERENCES).references()

    def texts(self) -> Sequence[str | None]:
        return self._declared(TEXTS).texts()

    def _declared(self, wanted: str) -> ImageBatch:
        if wanted not in self.needs:
            raise UserError(
                f"metric '{self.metric}' asks for what its needs do not declare: add '{wanted}'"
            )
        return self.whole
