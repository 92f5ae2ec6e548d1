"""The command that makes a trained run a file for elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from reidgen.commands.options import Data, Json, Plugin, Quiet, Results, RunName
from reidgen.terminal import document, note, one_sentence, result


@one_sentence
def export(
    run: RunName,
    out: Annotated[Path, typer.Option(help="The file to write, NAME.onnx or NAME.pt2; of --format hub a new folder.")],
    format: Annotated[
        str, typer.Option(help="onnx; torch, a torch.export program; hub, a folder ready for huggingface.co.")
    ] = "onnx",
    pixels: Annotated[str, typer.Option(help="What it takes: float, 0..1, or uint8, 0..255.")] = "float",
    resize: Annotated[
        bool, typer.Option("--resize", help="Images of any size, resized inside; without it, of the run's size.")
    ] = False,
    plugin: Plugin = None,
    data: Data = Path("data"),
    results: Results = Path("results"),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a trained run as one file that needs no reidgen.

    R, G, B pixels in, embeddings of length 1 out, batches of any size. The file is verified against PyTorch on images
    of a prepared set (else drawn ones) before it is kept. Beside it: NAME.card.md and NAME.card.json.

    Example: reidgen export snr-tiny-s0 --out snr.onnx

    Example: reidgen export snr-tiny-s0 --out snr.onnx --pixels uint8 --resize
    """
    from reidgen.runs import find_run

    found, out = find_run(run, results), out.expanduser()
    from reidgen.deploy.card import facts_of_card, results_of, write_card
    from reidgen.deploy.export import export as run_export
    from reidgen.deploy.hub import write_hub

    results_of(found)  # damaged ones are said before anything is written
    if format == "hub":
        exported, facts = write_hub(found, out, pixels=pixels, resize=resize, data=data, results=results)
        cards = [out / "README.md", out / "config.json"]
    else:
        exported = run_export(found, out, format=format, pixels=pixels, resize=resize, data=data)
        facts = facts_of_card(found, exported, results)
        cards = write_card(exported, facts)
    if json:
        document(facts)
    else:
        difference = (
            f"largest difference from PyTorch {exported.difference:.2g} in 1 - cosine, on {exported.verified_on}"
        )
        opset = f", opset {exported.facts['opset']}" if "opset" in exported.facts else ""
        result(f"{exported.file}: {exported.facts['dim']} numbers per image{opset}; {difference}")
    if exported.resized is not None:
        note(f"resized inside, not by Pillow as in evaluate: up to {exported.resized:.2g} in 1 - cosine from that")
    for line in facts["warnings"]:
        note(f"note: {line}")
    note(f"card: {', '.join(map(str, cards))}")
