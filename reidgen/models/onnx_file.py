"""An ONNX file as a network that embeds: opened by onnxruntime, its form found out or asked for, and tried out."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reidgen.contracts import Network
from reidgen.devices import choose_device
from reidgen.errors import RecipeError, ReidgenError, WeightsError
from reidgen.files import weight_file
from reidgen.models.inputs import LAYOUTS, Input, from_metadata

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
TRIED = 2  # images that a file of any batch is tried with


class OnnxNetwork(Network):
    """An ONNX file that makes one embedding of an image; nothing of it can be changed.

    prepare makes images as the file wants them, float32 (B, 3, H, W); its layout and type they get when they are
    embedded, in batches as large as the file's where it has a fixed one.
    """

    fixed: ClassVar[bool] = True

    def __init__(self, file: Path, session: "InferenceSession", form: Input, output: str) -> None:
        super().__init__()
        self.file, self.session, self.form, self.output = file, session, form, output
        taken = session.get_inputs()[0]
        self.input, self.numbers = taken.name, TYPES[taken.type]
        self.batch = taken.shape[0] if isinstance(taken.shape[0], int) else None
        self.dim = self._try_out()

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")  # its images and embeddings; onnxruntime moves them itself

    def prepare(self, pixels_BCHW: Tensor) -> Tensor:
        return self.form.prepare(pixels_BCHW)

    def describe(self, images: Tensor) -> Tensor:
        array = images.numpy()
        if self.form.layout == "nhwc":
            array = array.transpose(0, 2, 3, 1)
        array = np.ascontiguousarray(array.round() if self.numbers is np.uint8 else array).astype(self.numbers)
        size = self.batch or max(len(array), 1)
        parts = [self._run(array[start : start + size], size) for start in range(0, len(array), size)]
        return torch.from_numpy(np.concatenate(parts))

    def _run(self, images: NDArray[Any], size: int) -> NDArray[np.float32]:
        """Return the features of some images, float32 (n, D); a fixed batch is filled up with the last of them."""
        filled = images
        if self.batch and len(images) < size:
            filled = np.concatenate([images, np.repeat(images[-1:], size - len(images), axis=0)])
        try:
            found = np.asarray(self.session.run([self.output], {self.input: filled})[0])
        except Exception as error:  # onnxruntime's own kinds, which it does not export
            raise WeightsError(
                f"{self.file} cannot embed {_words(filled.shape)} images: {_first_line(error)}; where it is its batch "
                "or size that is fixed inside, export it again, or give --input size=HEIGHTxWIDTH"
            ) from error
        flat = found.reshape(len(found), -1) if found.ndim == 4 and found.shape[2:] == (1, 1) else found
        if flat.ndim != 2 or len(flat) != len(filled):
            raise WeightsError(
                f"{self.file}: the output {self.output} is {_words(found.shape)} for {len(filled)} images; embeddings "
                "are (images, D): name another output with --input output=NAME"
            )
        return flat[: len(images)].astype(np.float32)

    def _try_out(self) -> int:
        """Embed grey images, and return D. Raises WeightsError when the file cannot, or gives no embeddings."""
        grey = torch.full((self.batch or TRIED, 3, self.form.height, self.form.width), 0.5)
        return int(self.describe(self.prepare(grey)).shape[1])


class Opened(NamedTuple):
    """An ONNX file that was opened; said: what `reidgen export` wrote into its metadata, {} of other files."""

    network: OnnxNetwork
    said: Mapping[str, Any]


def open_onnx(file: Path, asked: Mapping[str, Any], *, device: str = "auto") -> Opened:
    """Return an ONNX file as a network.

    asked: what `inputs.read_words` returned: it stands for what the file does not say itself, in its shapes, types and
    metadata, and must not contradict these.
    Raises ReidgenError where onnxruntime is not installed, WeightsError when the file is none, has its numbers in
    further files, or needs to be told something: the option is named. RecipeError for a device that is not there.
    """
    session = _session(weight_file(file), device)
    _refuse_external(file)
    inputs, outputs = session.get_inputs(), [one.name for one in session.get_outputs()]
    if len(inputs) != 1:
        raise WeightsError(
            f"{file} takes {len(inputs)} inputs ({', '.join(one.name for one in inputs)}), and an extractor takes one, "
            "the images; export the part that embeds alone"
        )
    said = from_metadata(session.get_modelmeta().custom_metadata_map, str(file))
    form = _form(file, inputs[0].shape, inputs[0].type, said.get("input"), asked)
    output = form.output or (outputs[0] if len(outputs) == 1 else "")
    if output not in outputs:
        option = " ".join(f"--input output={name}" for name in outputs[:1])
        what = f"has no output {output!r}" if output else f"has {len(outputs)} outputs"
        raise WeightsError(f"{file} {what}; say which holds the embeddings, of {', '.join(outputs)}: {option}")
    return Opened(OnnxNetwork(file, session, form, output), said)


def _session(file: Path, device: str) -> "InferenceSession":
    try:
        import onnxruntime
    except ImportError as error:
        raise ReidgenError(
            f'{file.name} is run by onnxruntime, which is not installed; to get it: pip install "reidgen[export]"'
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    try:
        return onnxruntime.InferenceSession(file, options, providers=_providers(onnxruntime, device))
    except Exception as error:  # its own kinds, which it does not export
        raise WeightsError(f"{file} is no ONNX model that onnxruntime can run: {_first_line(error)}") from error


def _refuse_external(file: Path) -> None:
    """Raise WeightsError where weights lie in files beside this one: its digest would not tell them from others."""
    try:
        import onnx
    except ImportError as error:
        raise ReidgenError(
            f'{file.name} is read by onnx, which is not installed; to get it: pip install "reidgen[export]"'
        ) from error
    whole = onnx.load(file, load_external_data=False)
    pairs = (pair for one in _messages(whole) for pair in getattr(one, "external_data", ()))
    if beside := sorted({pair.value for pair in pairs if pair.key == "location"}):
        one_file = file.with_name(f"{file.stem}-whole.onnx")
        raise WeightsError(
            f"{file} keeps weights in another file, {', '.join(beside)}, so that its own bytes do not tell which they "
            f"are; make it one file: python -c \"import onnx; onnx.save(onnx.load('{file}'), '{one_file}')\""
        )


def _messages(message: Any) -> Iterator[Any]:
    """Yield a message of protobuf and all that lie in it, of graphs inside nodes too."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if isinstance(value, Sequence) else [value]:
                yield from _messages(one)


def _providers(onnxruntime: Any, device: str) -> list[Any]:
    """Return what onnxruntime runs on. Raises RecipeError for a GPU that it cannot use, unless the device is auto."""
    place = choose_device(device)
    if place.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return [("CUDAExecutionProvider", {"device_id": place.index or 0}), "CPUExecutionProvider"]
    if place.type != "cpu" and device != "auto":
        raise RecipeError(
            f"--device {device}: onnxruntime as installed here runs on the CPU only; use --device cpu, or install "
            "onnxruntime-gpu in its place"
        )
    return ["CPUExecutionProvider"]


def _form(file: Path, shape: Sequence[Any], kind: str, said: Input | None, asked: Mapping[str, Any]) -> Input:
    """Return how the file wants its images: by its shape, type and metadata, and else as the user says."""
    if kind not in TYPES or len(shape) != 4:
        raise WeightsError(
            f"{file} takes {kind} {_words(shape)}, and images are four numbers, such as (batch, 3, 256, 128), of the "
            f"types {', '.join(TYPES)}; export it so"
        )
    known: dict[str, Any] = said.facts() if said else {}
    if wrong := [key for key, value in asked.items() if said and getattr(said, key) != value]:
        key = "size" if wrong[0] in ("height", "width") else wrong[0]
        raise WeightsError(f"{file} says itself that it takes {said}; leave out --input {key}")
    layout = _layout(file, shape, {**known, **asked}.get("layout"))
    sides = shape[2:] if layout == "nchw" else shape[1:3]
    fixed = {name: side for name, side in zip(("height", "width"), sides, strict=True) if isinstance(side, int)}
    if any(asked.get(name, side) != side for name, side in fixed.items()):
        given = f"{asked['height']}x{asked['width']}"
        raise WeightsError(f"{file} takes {_words(shape)}, so --input size={given} does not fit; leave it out")
    found: dict[str, Any] = {**known, **fixed, **asked, "layout": layout}
    if not {"height", "width"} <= found.keys():
        raise WeightsError(f"{file} takes images of any size, {_words(shape)}; say which: --input size=256x128")
    if kind == "tensor(uint8)":
        if "mean" in asked or asked.get("range") == 1:
            words = "mean and deviation" if "mean" in asked else "range=1"
            raise WeightsError(f"{file} takes bytes, 0 to 255, and scales them itself; leave out --input {words}")
        found = {"range": 255, **found}
    elif not known and not {"mean", "range"} & asked.keys():
        raise WeightsError(
            f"{file} does not say how its pixels are scaled; give --input mean=imagenet, --input mean=0.5 --input "
            "deviation=0.5, --input range=1 (plain 0..1) or --input range=255"
        )
    found |= {key: tuple(found[key]) for key in ("mean", "deviation") if key in found}
    return Input(**found)


def _layout(file: Path, shape: Sequence[Any], said: str | None) -> str:
    """Return where the channels are. Raises WeightsError where the shape contradicts what is said, or says nothing."""
    has = [layout for layout, place in zip(LAYOUTS, (1, 3), strict=True) if shape[place] == 3]
    may = [layout for layout, place in zip(LAYOUTS, (1, 3), strict=True) if not isinstance(shape[place], int)]
    if said and said not in (has or may):
        raise WeightsError(f"{file} takes {_words(shape)}, which is not {said}; leave out --input layout={said}")
    if not said and len(has) != 1:
        raise WeightsError(
            f"{file} takes {_words(shape)}, which shows no place of the three colours; give --input layout=nchw or "
            "--input layout=nhwc"
        )
    return said or has[0]


def _words(shape: Sequence[Any]) -> str:
    return f"({', '.join('?' if side is None else str(side) for side in shape)})"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
