"""libsndfile, reading forwards only and through headers that are put right."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import soundfile

from rectiflow_audio.io.errors import AudioFileError
from rectiflow_audio.io.headers import Finding, Spliced

if TYPE_CHECKING:
    from collections.abc import Iterator


class Decoder(soundfile.SoundFile):
    """A sound file that is never wound.

    soundfile winds after every block that it reads, which some formats (GSM, FLAC from a pipe)
    cannot do, and reads no further than it believes the file to go.
    """

    _surplus = 0

    def seekable(self) -> bool:
        """Return False."""
        return False

    @property
    def frames(self) -> int:
        """Samples of each channel."""
        return int(super().frames) - self._surplus

    def begin_at_last(self, samples: int) -> None:
        """Leave out what comes before so many samples at the end."""
        surplus = self.frames - samples
        if surplus > 0:
            self.read(surplus)
            self._surplus = surplus


@contextmanager
def decoding(path: Path, raw: BinaryIO, finding: Finding) -> Iterator[Decoder]:
    """Open a file for decoding.

    Raises
    ------
    AudioFileError
        If it is no sound.
    """
    # As bytes: names need not be text. By name: a bare MP3 is known by its suffix alone.
    source = Spliced(raw, finding.head, finding.skip) if finding.head else os.fsencode(path)
    try:
        file = Decoder(source)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: the suffix is ".raw"
        reason = getattr(error, "error_string", "it has no header").rstrip(".")
        raise AudioFileError(
            path,
            f"it cannot be read ({reason})",
            "a sound file such as WAV, FLAC, Ogg or MP3",
            "Check that it plays elsewhere, and convert it to WAV.",
        ) from error
    with file:
        if finding.samples is not None:
            file.begin_at_last(finding.samples)
        yield file
