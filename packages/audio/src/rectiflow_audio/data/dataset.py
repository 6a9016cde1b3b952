"""Training examples: mixtures made on the fly, and single clips.

An item is a pure function of (seed, index), so that the order of an interrupted run can be taken
up again and no worker process shares a generator with another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from rectiflow.randomness import counter_generator
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from rectiflow_audio.data.augment import crop, fit
from rectiflow_audio.data.blend import Blend
from rectiflow_audio.data.captions import Wordings
from rectiflow_audio.data.mixtures import (
    NOTHING_PHRASES,
    NOTHING_PROBABILITY,
    MixtureRules,
    labels_of,
)
from rectiflow_audio.data.texts import Context
from rectiflow_audio.frontend import SAMPLE_RATE, normalise

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""Changes a wave ``(n,)`` into another ``(m,)``; see :class:`Augment`."""

Index = int | tuple[int, int]
"""A row, or (row, draw): the same row with other random numbers."""

_TRIES = 100  # at a compatible interferer, before all clips are looked through


class Waves(Protocol):
    """Waves ``(n,)`` by index: a list, or a reader of shards."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


class Texts(Protocol):
    """Embeddings by text, the empty one among them: a :class:`TextTable`."""

    def __contains__(self, text: object, /) -> bool: ...

    def __getitem__(self, text: str, /) -> Context: ...


@dataclass(frozen=True)
class Clips:
    """Sounds and what is known of them.

    Parameters
    ----------
    waves : sequence of Tensor, each of shape (n,)
        Float32 at 16 kHz, none of them silent.
    captions : sequence of str
        What is heard, one sentence per clip.
    labels : sequence of str
        Class of each clip, or several separated by commas; may be empty.
    further : sequence of sequences of str, optional
        Other captions of each clip, as true as the first.
    """

    waves: Waves
    captions: Sequence[str]
    labels: Sequence[str]
    further: Sequence[Sequence[str]] = ()

    def __post_init__(self) -> None:
        if self.further and len(self.further) != len(self.captions):
            raise ValueError(
                f"further captions belong to clips, got {len(self.further)} for "
                f"{len(self.captions)} clips; expected a list for each, or none at all."
            )
        if not len(self.waves) == len(self.captions) == len(self.labels):
            raise ValueError(
                f"clips need one caption and one label each, got {len(self.waves)} waves, "
                f"{len(self.captions)} captions and {len(self.labels)} labels."
            )

    def __len__(self) -> int:
        return len(self.waves)

    @property
    def texts(self) -> list[str]:
        """All captions."""
        return [*self.captions, *(text for texts in self.further for text in texts)]

    def draw_caption(self, row: int, generator: torch.Generator) -> str:
        """Return one of a clip's captions; nothing is drawn where there is one."""
        others = self.further[row] if self.further else ()
        chosen = int(torch.randint(len(others) + 1, (), generator=generator)) if others else 0
        return others[chosen - 1] if chosen else self.captions[row]


class MixtureDataset(Dataset[dict[str, Any]]):
    """A clip, mixed with a clip that a query for it does not fit.

    Parameters
    ----------
    clips : Clips
        At least two that may be mixed.
    texts : Texts
        Embeddings of every caption that can be drawn, see :attr:`captions`.
    window_seconds : float, default 10.24
        Length of an example.
    rules : MixtureRules
        What is mixed, and at which level.
    wordings : Wordings, optional
        Further captions per label.
    augment : Augmentation, optional
        Applied to target and interferer, each with its own draws.
    blend : Blend, optional
        Makes sounds of some labels out of several clips.
    loop : float, default 0.25
        Probability that a clip shorter than the window is repeated instead of padded.
    absent : float, default 0.0
        Probability that the target is not in the mixture, so that silence is the right answer.
    alone : float, default 0.0
        Probability that nothing else is in the mixture.
    crowd : float, default 0.0
        Probability that the interferer is not one sound but two.
    ask_both : bool, default False
        Tell the (first) interferer and its caption too, so that the mixture serves two queries.
    balanced : bool, default False
        Draw the label first, then a clip of it, for target and interferer: a row then only
        numbers the draw. Otherwise row i is clip i.
    seed : int
        With the index, fixes the item.

    Raises
    ------
    ValueError
        If no two clips may be mixed, a blend is made of labels that no clip has, or an argument is
        out of range.
    """

    def __init__(
        self,
        clips: Clips,
        texts: Texts,
        window_seconds: float = 10.24,
        *,
        rules: MixtureRules | None = None,
        wordings: Wordings | None = None,
        augment: Augmentation | None = None,
        blend: Blend | None = None,
        loop: float = 0.25,
        absent: float = 0.0,
        alone: float = 0.0,
        crowd: float = 0.0,
        ask_both: bool = False,
        balanced: bool = False,
        seed: int = 0,
    ) -> None:
        self.clips, self.texts, self.seed = clips, texts, seed
        self.crowd, self.ask_both, self.blend = crowd, ask_both, blend
        self.rules, self.wordings = rules or MixtureRules(), wordings or Wordings()
        self.augment, self.loop, self.absent, self.alone = augment, loop, absent, alone
        self.window = samples_of(window_seconds)
        if min(loop, absent, alone, crowd) < 0 or max(loop, absent + alone, crowd) > 1:
            raise ValueError(
                f"loop, absent, alone and crowd are probabilities, got {loop}, {absent}, {alone} "
                f"and {crowd}; expected each in [0, 1], and absent + alone at most 1."
            )
        known = cache(labels_of)  # clips of the same labels share their set
        self._labels = [*map(known, clips.labels, clips.captions)]
        self._rows = _rows_by_label(self._labels)
        self._of_label = [self._rows[label] for label in sorted(self._rows)] if balanced else []
        self._require_partners()
        self._require_parts()
        if absent_texts := [text for text in self.captions if text not in texts]:
            raise ValueError(
                f"{len(absent_texts)} captions have no embedding, the first is "
                f"{absent_texts[0]!r}; expected one for each. Embed dataset captions and wordings "
                "again (`encode_texts`)."
            )

    @property
    def captions(self) -> list[str]:
        """Every text that can be drawn, sorted."""
        nothing = NOTHING_PHRASES if self.rules.official else ()
        return sorted({*self.clips.texts, *self.wordings.texts, *nothing})

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: Index) -> dict[str, Any]:
        """Make one example.

        Returns
        -------
        dict
            ``target`` and ``mixture (n,)``, ``context (k, d)``, ``context_mask (k,)``, the empty
            text's ``null_context (k, d)``, ``snr ()`` in decibel, ``caption``, and ``nothing ()``,
            true where the authors would take a log-mel of zeros for the target. If both are asked
            for, ``other (n,)``, ``other_context (k, d)`` and ``other_mask (k,)``.
        """
        row, draw = index if isinstance(index, tuple) else (index, 0)
        generator = counter_generator("mixture", self.seed, draw, row)
        row = self._draw_row(generator) if self._of_label else row
        other = self._interferer(row, generator)
        snr = self.rules.draw_snr(generator)
        caption = self.clips.draw_caption(row, generator)
        caption = self.wordings.draw(caption, self.clips.labels[row], generator)
        target, asked = (self._window(i, generator) for i in (row, other))
        interferer = asked
        if self.crowd and float(torch.rand((), generator=generator)) < self.crowd:
            third = self._interferer(row, generator, beside=other)
            snr_of_third = self.rules.draw_snr(generator)
            asked, interferer = self.rules.mix(asked, self._window(third, generator), snr_of_third)
        chance = float(torch.rand((), generator=generator, dtype=torch.float64))
        nothing = self.rules.official and chance < NOTHING_PROBABILITY
        if self.rules.official or chance >= self.absent + self.alone:
            target, mixture = self.rules.mix(target, interferer, snr)
            gain = float((mixture - target).norm() / interferer.norm())
        elif chance < self.absent:
            target, (mixture, level) = torch.zeros_like(target), normalise(interferer)
            gain = float(level.gain)
        else:
            target, gain = normalise(target)[0], 0.0
            mixture = target
        if nothing:
            chosen = int(torch.randint(len(NOTHING_PHRASES), (), generator=generator))
            caption, target = NOTHING_PHRASES[chosen], torch.zeros_like(target)
        context = self.texts[caption]
        both = {}
        if self.ask_both:
            told = self.wordings.draw(
                self.clips.captions[other], self.clips.labels[other], generator
            )
            second = self.texts[told]
            both = {
                "other": gain * asked,
                "other_context": second.states,
                "other_mask": second.mask,
            }
        return both | {
            "target": target,
            "mixture": mixture,
            "context": context.states,
            "context_mask": context.mask,
            "null_context": self.texts[""].states,
            "snr": torch.tensor(snr, dtype=torch.float32),
            "nothing": torch.tensor(nothing),
            "caption": caption,
        }

    def partner(self, row: int, draw: int = 0) -> int:
        """Return which clip row ``row`` is mixed with, where rows are not drawn by label."""
        return self._interferer(row, counter_generator("mixture", self.seed, draw, row))

    def _window(self, row: int, generator: torch.Generator) -> Tensor:
        """Return a clip, or a blend that takes its place, in a window."""
        label = self.clips.labels[row]
        parts = self.blend.drawn(label, generator) if self.blend else []
        if self.blend is None or not parts:
            return self._placed(row, generator)
        rows = [self._one_of(self._rows[part], generator) for part in parts]
        return self.blend.sum(label, [self._placed(each, generator) for each in rows], generator)

    def _placed(self, row: int, generator: torch.Generator) -> Tensor:
        wave = self.clips.waves[row]
        if self.augment is not None:
            wave = self.augment(wave, generator)
        if self.rules.official:  # crop, then level, then zeros at the end: as their reader does
            wave = crop(wave, self.window, generator)
            wave = normalise(wave)[0]
            return functional.pad(wave, (0, self.window - len(wave)))
        wave = fit(wave - wave.mean(), self.window, generator, loop=self.loop)
        return wave - wave.mean()

    def _draw_row(self, generator: torch.Generator) -> int:
        """Draw a clip: of a drawn label, or any."""
        if not self._of_label:
            return int(torch.randint(len(self.clips), (), generator=generator))
        rows = self._of_label[int(torch.randint(len(self._of_label), (), generator=generator))]
        return self._one_of(rows, generator)

    @staticmethod
    def _one_of(rows: Sequence[int], generator: torch.Generator) -> int:
        return rows[int(torch.randint(len(rows), (), generator=generator))]

    def _interferer(self, row: int, generator: torch.Generator, beside: int | None = None) -> int:
        """Draw a clip that goes with one, or with two of which there may be no third."""
        rows = [row] if beside is None else [row, beside]
        for _ in range(_TRIES):
            other = self._draw_row(generator)
            if all(self._fits(each, other) for each in rows):
                return other
        fitting = [other for other in range(len(self)) if self._fits(row, other)]
        return self._one_of(fitting, generator)

    def _fits(self, row: int, other: int) -> bool:
        return row != other and self.rules.compatible(self._labels[row], self._labels[other])

    def _require_partners(self) -> None:
        """Refuse clips that can be mixed with none; stops at the first partner of each."""
        for row, labels in enumerate(self._labels):
            if not any(self._fits(row, other) for other in range(len(self))):
                raise ValueError(
                    f"clip {row} ({', '.join(sorted(labels))}) can be mixed with none of the "
                    f"{len(self)} clips; expected one with other labels. Leave it out, or add "
                    "clips of other classes."
                )

    def _require_parts(self) -> None:
        """Refuse blends of labels that no clip has."""
        wanted = {
            part for parts in (self.blend.parts if self.blend else {}).values() for part in parts
        }
        if missing := sorted(wanted - set(self._rows)):
            raise ValueError(
                f"a blend is made of clips, got none of {', '.join(missing)}; expected labels "
                f"among {', '.join(sorted(self._rows))}. Correct the parts of the blend."
            )


class WaveformDataset(Dataset[dict[str, Tensor]]):
    """Single clips, for the training of codec and vocoder.

    Parameters
    ----------
    clips : Clips
        Captions and labels are not used.
    window_seconds : float, default 10.24
        Length of an example.
    augment : Augmentation, optional
        Applied to each clip.
    loop : float, default 0.25
        Probability that a shorter clip is repeated instead of padded.
    quietest_db : float, default 0.0
        The level is drawn evenly in decibel between this and the front end's peak, since the
        codec also meets targets far below the mixture's level. 0 keeps that peak.
    seed : int
        With the index, fixes the item.
    """

    def __init__(
        self,
        clips: Clips,
        window_seconds: float = 10.24,
        *,
        augment: Augmentation | None = None,
        loop: float = 0.25,
        quietest_db: float = 0.0,
        seed: int = 0,
    ) -> None:
        if quietest_db > 0:
            raise ValueError(f"quietest_db must be at most 0, got {quietest_db}; -20 is a tenth.")
        self.clips, self.augment, self.loop, self.seed = clips, augment, loop, seed
        self.quietest_db, self.window = quietest_db, samples_of(window_seconds)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: Index) -> dict[str, Tensor]:
        """Return ``{"target": (n,)}``, mean removed."""
        row, draw = index if isinstance(index, tuple) else (index, 0)
        generator = counter_generator("waveform", self.seed, draw, row)
        wave = self.clips.waves[row]
        if self.augment is not None:
            wave = self.augment(wave, generator)
        wave = fit(wave - wave.mean(), self.window, generator, loop=self.loop)
        level = 10 ** (self.quietest_db / 20 * float(torch.rand((), generator=generator)))
        return {"target": level * normalise(wave)[0]}


def samples_of(seconds: float) -> int:
    """Return the samples of a window, at 16 kHz.

    Raises
    ------
    ValueError
        If it is not longer than 0.1 s.
    """
    if not seconds > 0.1:
        raise ValueError(f"a window must be longer than 0.1 s, got {seconds} s.")
    return round(seconds * SAMPLE_RATE)


def _rows_by_label(labels: Sequence[frozenset[str]]) -> dict[str, list[int]]:
    """Rows of each label."""
    rows: dict[str, list[int]] = {}
    for row, found in enumerate(labels):
        for label in found:
            rows.setdefault(label, []).append(row)
    return rows
