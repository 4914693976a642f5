"""The columns of predictions: the challenge's, and those that surveys publish."""

from collections.abc import Sequence
from numbers import Integral
from typing import NamedTuple

import numpy as np
import pandas as pd

from gzjax.errors import UserError
from gzjax.posterior import Posterior
from gzjax.run.model import Model
from gzjax.tree import Question, Tree, normalise
from gzjax.trees.campaigns import campaign_of

COLUMNS = ("challenge", "survey", "both")


class Predicted(NamedTuple):
    """What is predicted for some images.

    fractions: float32[galaxies, answers], cumulative.
    posterior: of models with intervals.
    faults: why an image could not be read, "" where it could; the rest is NaN there.
    """

    fractions: np.ndarray
    posterior: Posterior | None
    faults: list[str]


class Wanted(NamedTuple):
    """Which columns predictions have.

    columns: `challenge`, cumulative fractions under the tree's own names; `survey`, those that
      `survey_columns` gives; `both`; "": both if there are intervals, else the challenge's.
    volunteers: intervals of what this many volunteers would say; None: of the underlying fractions.
    campaigns: of a tree of several, those wanted, such as `dr5`; none: all.
    """

    columns: str = ""
    volunteers: int | None = None
    campaigns: tuple[str, ...] = ()

    def of(self, models: Sequence[Model]) -> "Wanted":
        """The same for some models, checked.

        Raises:
          UserError: columns or campaigns that there are not, or volunteers without intervals.
        """
        has_intervals = all(model.has_intervals for model in models)
        if self.columns not in ("", *COLUMNS):
            expected = f"expected one of {', '.join(COLUMNS)}"
            raise UserError(f"columns: {expected}, found {self.columns!r}")
        counts = isinstance(self.volunteers, Integral) and self.volunteers > 0
        if self.volunteers is not None and not (counts and has_intervals):
            expected = (
                "a whole number, 1 or more"
                if has_intervals
                else "a model with the loss term dirichlet"
            )
            raise UserError(f"volunteers: expected {expected}, found {self.volunteers}")
        columns = self.columns or ("both" if has_intervals else "challenge")
        if self.volunteers is not None and columns == "challenge":
            raise UserError(
                "volunteers: expected none with the columns challenge, which have no intervals, "
                f"found {self.volunteers}"
            )
        tree, campaigns = models[0].tree, self.campaigns
        if "+" not in tree.name:  # of one campaign
            own = (tree.name, tree.suffix.removeprefix("-"))
            known = sorted({*filter(None, own)})
            wrong = [campaign for campaign in campaigns if campaign not in known]
            campaigns = ()
        else:
            names = [question.name for question in tree.questions]
            known = sorted({campaign_of(name, tree) for name in names})
            wrong = [c for c in campaigns if not any(name.endswith(f"-{c}") for name in names)]
        if wrong:
            expected = f"expected some of {', '.join(known)}"
            raise UserError(f"campaigns: {expected}, found {', '.join(wrong)}")
        volunteers = None if self.volunteers is None else int(self.volunteers)
        return self._replace(columns=columns, volunteers=volunteers, campaigns=campaigns)

    def takes(self, question: Question) -> bool:
        """Whether a question is of the campaigns."""
        return not self.campaigns or question.name.endswith(tuple(f"-{c}" for c in self.campaigns))


CHALLENGE = Wanted("challenge")
# What an answer has of a survey's columns; of models without intervals the first alone.
KINDS = ("fraction", "90pc-lower", "90pc-upper")


def survey_columns(predicted: Predicted, tree: Tree, wanted: Wanted) -> dict[str, np.ndarray]:
    """Columns as surveys publish them, float[galaxies] each; all but the last are conditional.

    For each question and answer the `_fraction`, of models with intervals the mean of their
    mixture; its `_90pc-lower` and `_90pc-upper`, the ends of the mixture's central interval, exact;
    and for each question `_proportion-asked`, the part of the crowd that is asked. Without
    intervals, nothing is known of a question that nobody is asked: NaN.
    """
    believed, asked = predicted.posterior, tree.asked(predicted.fractions)
    if believed is None:
        shares, answered = normalise(predicted.fractions, tree)
        fractions = np.where(answered, shares, np.nan)
        ends: tuple[np.ndarray, ...] = ()
    else:
        ends = believed.interval(0.9, wanted.volunteers)
        fractions = believed.mean()
    columns = {}
    named = zip(tree.questions, asked_columns(tree), asked.T, strict=True)
    for question, asked_of, reached in named:
        if not wanted.takes(question):
            continue
        for answer in range(question.columns.start, question.columns.stop):
            name = tree.survey_columns[answer]
            for kind, values in zip(KINDS, (fractions, *ends), strict=False):
                columns[f"{name}_{kind}"] = values[:, answer]
        columns[asked_of] = reached
    return columns


def asked_columns(tree: Tree) -> list[str]:
    """For each question the name of the column of the part of the crowd that is asked."""
    return [
        f"{tree.survey_columns[question.first].rpartition('_')[0]}_proportion-asked"
        for question in tree.questions
    ]


def table_of(
    tree: Tree, ids: Sequence[str], some: Sequence[Predicted], wanted: Wanted
) -> pd.DataFrame:
    """GalaxyID, the tree's columns, wanted or not, the others, and `fault`."""
    tables = []
    for predicted in some:
        table = pd.DataFrame(predicted.fractions, columns=list(tree.columns))
        if wanted.columns != "challenge":
            more = pd.DataFrame(survey_columns(predicted, tree, wanted), dtype=np.float32)
            table = pd.concat([table, more], axis=1)
        table[[bool(fault) for fault in predicted.faults]] = np.nan
        tables.append(table.assign(fault=predicted.faults))
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "GalaxyID", list(ids))
    return table


def unwanted(tree: Tree, wanted: Wanted) -> list[str]:
    """The tree's columns that are not asked for."""
    return [
        column
        for question in tree.questions
        for column in tree.columns[question.columns]
        if wanted.columns == "survey" or not wanted.takes(question)
    ]
