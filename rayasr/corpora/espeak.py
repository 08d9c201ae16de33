"""espeak-ng, the speech synthesiser bundled by the package `espeakng-loader`, through ctypes.

The library keeps hidden state from one sentence to the next and is not thread-safe, so speech that
must come out the same every time is made in a process of its own: `speak_apart`.
"""

import ctypes
import json
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rayasr.errors import ConfigError, DataError

_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: samples come through the callback, before Synth returns
_DONT_EXIT = 0x8000  # espeakINITIALIZE: an error returns instead of ending the process
_UTF8 = 1
_IPA = 0x02
_RATE, _PITCH, _PITCH_RANGE = 1, 3, 4  # espeak_PARAMETER

_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True)
class Line:
    """One sentence and how it is spoken."""

    text: str
    voice: str
    """Language and variant: `cmn+f2`."""
    rate: int = 175
    """Words per minute, as espeak counts them."""
    pitch: int = 50
    """0 to 99."""
    pitch_range: int = 50
    """0 to 99; 0 is monotone."""


class Espeak:
    """The loaded library; one per process."""

    def __init__(self) -> None:
        """Load and start the library; raises ConfigError where the package is missing."""
        try:
            import espeakng_loader
        except ImportError as error:
            raise ConfigError(
                "the synthetic corpus needs the package espeakng-loader; "
                "run `pip install 'rayasr[demo]'`"
            ) from error
        data_path = Path(espeakng_loader.get_data_path())
        try:  # by its full path: Debian's espeak-ng 1.51 does not read Chinese characters
            self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        except OSError as error:
            raise ConfigError(
                f"espeakng-loader's library does not load on this machine ({error}); "
                "train on recordings instead, see docs/tutorial.md"
            ) from error
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        folder = str(data_path.parent).encode()
        self.sample_rate = int(self._library.espeak_Initialize(_SYNCHRONOUS, 0, folder, _DONT_EXIT))
        if self.sample_rate <= 0:
            raise ConfigError(f"espeak-ng cannot read its voices in {data_path}; reinstall it")
        # Breathy variants draw noise, seeded by the clock unless told otherwise.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._variants = {file.name for file in (data_path / "voices" / "!v").iterdir()}
        self._samples: list[bytes] = []
        self._callback = _CALLBACK(self._take)  # kept: the library holds only a pointer
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, line: Line) -> bytes:
        """Samples of a sentence: int16 in this machine's byte order, at `sample_rate`."""
        self._set_voice(line.voice)
        for parameter, value in (
            (_RATE, line.rate),
            (_PITCH, line.pitch),
            (_PITCH_RANGE, line.pitch_range),
        ):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._samples.clear()
        text = line.text.encode()
        code = self._library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        if code != 0 or not self._samples:
            raise DataError(f"espeak-ng cannot speak '{line.text}' (code {code})")
        return b"".join(self._samples)

    def phonemes(self, text: str, voice: str) -> str:
        """How a text is pronounced, in IPA with tone digits, without stress marks and spaces."""
        self._set_voice(voice)
        rest = ctypes.c_char_p(text.encode())
        parts = []
        while rest.value is not None:
            part = self._library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA)
            parts.append(part.decode())
        return "".join(parts).replace("ˈ", "").replace("ˌ", "").replace(" ", "")

    def _set_voice(self, voice: str) -> None:
        variant = voice.partition("+")[2]  # the library takes an unknown one for none at all
        known = not variant or variant in self._variants
        if not known or self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ConfigError(f"espeak-ng has no voice '{voice}'")

    def _take(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: int | None) -> int:
        if samples and count > 0:
            self._samples.append(ctypes.string_at(samples, 2 * count))
        return 0


def speak_apart(lines: Sequence[Line]) -> tuple[int, list[bytes]]:
    """Sample rate and int16 samples of each line, the same every time: from a fresh process.

    Raises ConfigError where the package is missing, DataError where the process fails.
    """
    request = json.dumps([asdict(line) for line in lines])
    done = subprocess.run(
        [sys.executable, "-m", "rayasr.corpora.espeak"],
        input=request.encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        message = done.stderr.decode(errors="replace").strip() or f"code {done.returncode}"
        if done.returncode == ConfigError.exit_code:
            raise ConfigError(message)
        raise DataError(f"espeak-ng failed: {message.splitlines()[-1]}")
    sample_rate, *sizes = struct.unpack_from(f"={1 + len(lines)}I", done.stdout)
    speech, position = [], 4 * (1 + len(lines))
    for size in sizes:
        speech.append(done.stdout[position : position + size])
        position += size
    return sample_rate, speech


def main() -> None:
    """The process behind `speak_apart`: lines as JSON on stdin, samples on stdout."""
    lines = [Line(**row) for row in json.loads(sys.stdin.buffer.read())]
    try:
        espeak = Espeak()
        speech = [espeak.speak(line) for line in lines]
    except (ConfigError, DataError) as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    sizes = [len(samples) for samples in speech]
    header = struct.pack(f"={1 + len(lines)}I", espeak.sample_rate, *sizes)
    sys.stdout.buffer.write(header + b"".join(speech))


if __name__ == "__main__":
    main()
