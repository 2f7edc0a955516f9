"""A backbone is loaded once and lent to one job after another: what a job leaves, the loan undoes.

    loan = Loan(backbone)                   # the backbone is as it was loaded
    ...                                     # a job fits and draws
    left = loan.settle(thorough=True)       # ["a forward hook was left on 'unet.mid_block'"]
    if not loan.whole: ...                  # load the backbone anew

A job may leave other weights, gradients, random states, modes (train, eval) and flags
(requires_grad, gradient_checkpointing): they are restored silently. Everything else
that it leaves is put back too, but it fails the job, since what it drew may hang on it.
"""

from __future__ import annotations

from collections.abc import Iterable

from benchmark.api import Backbone
from benchmark.models.lending.object_state import Change, ObjectGraph
from benchmark.models.lending.process_state import ProcessState
from benchmark.models.lending.tensor_state import TensorState


class Loan:
    """A backbone of any kind as it is now, to be put back after each job.

    Its weights are copied to main memory; those that the backbone has in `stored_weights` (by
    module and name, "unet.conv_in.weight") are not.
    """

    def __init__(self, backbone: Backbone) -> None:
        stored = getattr(backbone, "stored_weights", {})
        self.whole = True  #: whether all could be put back; if not, load the backbone anew
        self._graph = ObjectGraph(backbone.modules(), {"backbone": backbone}, without=stored)
        self._tensors = {
            path: TensorState.of(tensor, stored.get(path))
            for path, tensor in self._graph.tensors.items()
        }
        self._process = ProcessState(self._graph.classes())

    def settle(self, thorough: bool) -> list[str]:
        """Put everything back; what was left behind, in plain words.

        Not `thorough`, after a method of our own: the modules (their parts, hooks, attributes and
        every bit of their weights) and torch's switches. Thorough, after anybody else's, and after
        a job that failed: all that can be reached from the backbone (configurations, tokenizers,
        schedulers, attention processors), and torch's functions and hooks too.
        """
        try:
            found = self._process.put_back(everything=thorough)
            found += self._graph.put_back(everything=thorough)
            again = self._graph.put_back(everything=thorough)
        except (RuntimeError, TypeError, AttributeError) as error:
            # Torch or Python does not take something back.
            self.whole = False
            return [f"something could not be put back: {error}"]
        found += self._settle_tensors(thorough)
        self.whole = self.whole and not again
        return _in_words(found)

    def _settle_tensors(self, thorough: bool) -> list[Change]:
        found = []
        paths = self._tensors if thorough else self._graph.module_tensors
        for path in paths:
            state = self._tensors[path]
            if state.take_hooks():
                found.append(Change("a hook was left on the tensor '{}'", path))
            if not state.put_back():
                self.whole = False
                found.append(Change("the tensor '{}' could not be put back", path))
        return found


def _in_words(changes: Iterable[Change]) -> list[str]:
    """A line for each kind of change: its first subject, and how many others there are."""
    subjects: dict[str, list[str]] = {}
    for change in changes:
        if change.what:
            subjects.setdefault(change.what, []).append(change.subject)
    return [
        what.format(first) + (f" (and {len(others)} more like it)" if others else "")
        for what, (first, *others) in subjects.items()
    ]
