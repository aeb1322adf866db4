"""`jaxtts say`: a text to a sound file.

The text is read (a lexicon and a tagger are loaded, 0.3 s) in a second process while this one imports jax."""

import argparse
import contextlib
import json
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtts.synth.voice import Audio, Voice
    from jaxtts.text import FrontEnd

HELP = """Speak a text into a sound file.

The text is an argument, a file (-f) or standard input; SSML if it begins with <speak. The suffix of the output chooses
the format: .wav, .flac, .mp3, .ogg, .opus. The first time ever a function is compiled and kept in the cache folder.
If an autoregressive voice (Tacotron) truncates, skips or repeats something in spite of all retries, the file is written
all the same, standard error says what and where, and the exit code is 3."""
EXAMPLES = """\
  jaxtts say "Hello, world." -o hello.wav
  jaxtts say -f chapter.txt -o chapter.flac --length-scale 1.1
  echo "From a pipe." | jaxtts say --stream | aplay -r 22050 -f S16_LE -t raw -
  jaxtts say -f chapter.txt -o chapter.flac --timestamps chapter.srt
  jaxtts say "See what you hear." -o see.wav --plot see.png
  jaxtts say "Another voice." --voice runs/voice -o other.mp3 --seed 3
  jaxtts say "One of many." --voice runs/vits --speaker bob -o bob.wav --duration-noise-scale 0.5
  jaxtts say "Attention please." --acoustic runs/tacotron2 --vocoder runs/waveglow -o t.wav --retries 4 --sigma 0.6
  jaxtts say "No vocoder yet." --acoustic runs/glow --vocoder griffin-lim -o rough.wav
  jaxtts say "From elsewhere." --voice mms-tts-eng -o mms.wav
  jaxtts say "From elsewhere." --voice vctk/pretrained_vctk.pth --speaker 4 -o vctk.wav"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Our names first, then those of Coqui's `tts` and of Piper."""
    parser.add_argument("text", nargs="?", metavar="TEXT", help="what to say; '-' or nothing reads standard input")
    parser.add_argument("--text", dest="text_option", metavar="TEXT", help="the same as an option")
    parser.add_argument("-f", "--file", "--input-file", type=Path, metavar="FILE", help="read the text from a file")
    parser.add_argument(
        "-o", "--output", "--out-path", "--output-file", metavar="OUT", help="sound file; '-' writes WAV to stdout"
    )
    parser.add_argument(
        "--output-raw", "--stream", action="store_true",
        help="16-bit little-endian samples to standard output, the first while the others are made",
    )  # fmt: skip
    parser.add_argument(
        "-v", "--voice", "-m", "--model", "--model-path", metavar="VOICE",
        help="an embedded voice's name, a voice folder, or an end-to-end model's folder or checkpoint, ours, Hugging "
        "Face's, jaywalnut310's, Coqui's or Piper's (default: the embedded voice)",
    )  # fmt: skip
    parser.add_argument("--acoustic", type=Path, metavar="DIR", help="acoustic model from this folder or checkpoint")
    parser.add_argument(
        "--vocoder", type=Path, metavar="DIR", help="vocoder from this folder or checkpoint, or griffin-lim"
    )
    parser.add_argument(
        "-s", "--speaker", "--speaker-idx", metavar="NAME", help="name or number, for a voice of several speakers"
    )
    parser.add_argument("--length-scale", type=float, metavar="X", help="above 1 is slower (default: the voice's)")
    parser.add_argument("--noise-scale", type=float, metavar="X", help="0 is flat, higher varies more")
    parser.add_argument(
        "--duration-noise-scale", "--noise-w", "--noise-w-scale", type=float, metavar="X",
        help="how much rhythm varies, for a voice that draws its durations (VITS)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed, the same sound (default 0)")
    parser.add_argument(
        "--retries", type=int, metavar="N",
        help="speak a sentence with faults up to N times again, by other seeds (autoregressive voices; default 2; "
        "--stream: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--max-frames", type=int, metavar="N", help="where an autoregressive voice is cut off that does not end"
    )
    parser.add_argument("--sigma", type=float, metavar="X", help="temperature of a vocoder with noise (WaveGlow)")
    parser.add_argument(
        "--denoise", type=float, default=0.0, metavar="X", help="take X of the vocoder's own hum away (default 0)"
    )
    parser.add_argument(
        "--timestamps", type=Path, metavar="FILE", help="when each word sounds: .json with phonemes, or .srt subtitles"
    )
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw mel spectrogram and alignment")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing on standard error")


def run(args: argparse.Namespace) -> int:
    """Speaks; 3 if the speech has faults."""
    text = _text(args)
    if not any((args.output, args.output_raw, args.plot, args.timestamps)):
        raise ValueError("nowhere to put the sound: give -o out.wav, or --output-raw for standard output")
    from jaxtts.synth.timestamps import check
    from jaxtts.synth.voice import load
    from jaxtts.text import Sentence

    if args.timestamps:
        check(args.timestamps)

    voice = load(args.voice, acoustic=args.acoustic, vocoder=args.vocoder)
    sentences = _begin(lambda: _read(voice.front_end, text))
    if "jax" not in sys.modules:
        import jaxtts.synth.speak  # noqa: F401  takes as long as reading the text does
    found = sentences()
    if "error" in found:
        raise ValueError(found["error"])
    read = [Sentence(*s) for s in found["sentences"]]
    manner = {
        "speaker": args.speaker, "length_scale": args.length_scale, "noise_scale": args.noise_scale,
        "duration_noise_scale": args.duration_noise_scale, "seed": args.seed, "max_frames": args.max_frames,
        "sigma": args.sigma, "denoise": args.denoise, **({} if args.retries is None else {"retries": args.retries}),
    }  # fmt: skip
    if args.output_raw and not args.plot and not args.timestamps:
        duration, complaints = _stream(voice.stream_sentences(read, **manner))
    else:
        (audio,) = voice.speak([read], **manner)
        duration, complaints = audio.duration, [c for segment in audio.segments for c in segment.complaints]
        _put(args, voice, audio)
    if not args.quiet:
        for note in [*found["notes"], *complaints]:
            print(f"jaxtts: {note}", file=sys.stderr)
        to_stdout = args.output_raw or args.output == "-"
        where = "standard output" if to_stdout else args.output or args.plot or args.timestamps
        print(f"{where}: {duration:.2f} s, {voice.sample_rate} Hz, voice {voice.name}", file=sys.stderr)
    return 3 if complaints else 0


def _stream(chunks: "Iterable[Audio]") -> tuple[float, list[str]]:
    """Writes raw samples as they come; returns how many seconds they were, and what was wrong with them."""
    from jaxtts.synth.voice import FaultySpeech

    duration, complaints, shown = 0.0, [], warnings.showwarning

    def note(message: Warning | str, category: type[Warning], *where: Any) -> None:
        complaints.append(str(message)) if category is FaultySpeech else shown(message, category, *where)

    with warnings.catch_warnings():
        warnings.simplefilter("always", FaultySpeech)
        warnings.showwarning = note
        for chunk in chunks:
            _write(chunk, raw=True)
            duration += chunk.duration
    return duration, complaints


def _put(args: argparse.Namespace, voice: "Voice", audio: "Audio") -> None:
    """Writes every file that was asked for."""
    if args.plot:
        from jaxtts.synth.plot import save_plot

        save_plot(args.plot, audio, voice.files.mel)
    if args.timestamps:
        audio.save_timestamps(args.timestamps)
    if args.output_raw or args.output == "-":
        _write(audio, raw=args.output_raw)
    elif args.output:
        audio.save(args.output)


def _write(audio: "Audio", raw: bool) -> None:
    """A WAV file, or its samples alone, to standard output."""
    from jaxtts.audio.io import encode

    sound = encode(audio.samples, audio.sample_rate)
    sys.stdout.buffer.write(sound[-2 * len(audio.samples) :] if raw else sound)
    sys.stdout.buffer.flush()


def _read(front_end: "FrontEnd", text: str) -> dict[str, Any]:
    """The sentences of a text and the warnings they gave, or the error, as JSON can hold them."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        try:
            sentences = front_end.sentences(text)
        except ValueError as error:
            return {"error": str(error)}
    return {"sentences": sentences, "notes": [str(n.message) for n in notes if n.category is UserWarning]}


def _begin(work: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Starts work in a forked process, if this one has neither threads nor jax; the result is a call to wait for it."""
    if not hasattr(os, "fork") or "jax" in sys.modules or threading.active_count() > 1:
        return work
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)

        def wait() -> dict[str, Any]:
            with open(reader, "rb") as pipe:
                answer = pipe.read()
            os.waitpid(child, 0)
            return json.loads(answer) if answer else work()  # it died: do it here, where errors are seen

        return wait
    with contextlib.suppress(BaseException):  # nothing may return into the caller's stack twice
        os.close(reader)
        with open(writer, "wb") as pipe:
            pipe.write(json.dumps(work()).encode())
    os._exit(0)


def _text(args: argparse.Namespace) -> str:
    given = [x for x in (args.text, args.text_option, args.file) if x is not None]
    if len(given) > 1:
        raise ValueError("more than one text: give one of TEXT, --text and -f FILE")
    if args.file is not None:
        return _decoded(args.file.read_bytes(), str(args.file))
    text = args.text if args.text is not None else args.text_option
    if text is not None and text != "-":
        return text
    if text is None and sys.stdin.isatty():
        raise ValueError('no text: give it as an argument, as in jaxtts say "Hello." -o hello.wav, or with -f FILE')
    return _decoded(sys.stdin.buffer.read(), "standard input")


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 text (byte {error.start}); convert it first") from error
