"""The methods of a model that options give: steps, forward, and how a batch is read and metrics are kept.

Every text here is plain Lightning with capital names for what `build` fills in.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..generated import expression, method, snippet
from ..scopes import binds, names_read
from .inputs import Inputs
from .losses import Loss
from .metrics import ModelMetrics

_FORWARD = '''
def forward(self, *inputs, **named):
    """Return the output of the network."""
    return self.net(*inputs, **named)
'''
# Positions count from the first place, and the first or the last token is looked for from there.
_FORWARD_LEFT = '''
def forward(self, *inputs, **named):
    """Return the output of the network; left-padded texts are padded on the right first."""
    mask = named.get("attention_mask")
    if mask is not None and mask.ndim == 2 and not mask[:, 0].all():
        padded = (mask.cumsum(dim=1) == 0).sum(dim=1, keepdim=True)
        places = (torch.arange(mask.shape[1], device=mask.device) + padded) % mask.shape[1]
        named = {name: part.gather(1, places) if part.shape == mask.shape else part for name, part in named.items()}
    return self.net(*inputs, **named)
'''
_STEPS = {
    "training_step": '''
def training_step(self, batch, batch_idx):
    """Return the loss to minimise."""
    loss = self._step(batch, "train")
    self.log("train_loss_step", loss)
    return loss
''',
    "validation_step": '''
def validation_step(self, batch, batch_idx, dataloader_idx=0):
    """Log the loss and the metrics of validation."""
    self._step(batch, "val", dataloader_idx)
''',
    "test_step": '''
def test_step(self, batch, batch_idx, dataloader_idx=0):
    """Log the loss and the metrics of a test."""
    self._step(batch, "test", dataloader_idx)
''',
}
# The size is a float: of whole numbers, Lightning takes the mean over ranks as a whole number.
_STEP = '''
def _step(self, batch, stage, dataloader_idx=0):
    """Return the loss of a batch; log it and the metrics for the whole epoch."""
    FORWARD
    size = float(SIZE)
    self.log(f"{stage}_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=size, sync_dist=True)
    METRICS
    return loss
'''
_TENSOR_LOSS = """
inputs, named, target = self._unpack(batch)
OUTPUT
MATCH
loss = LOSS(output, target)
"""
_CONVERTED = """
output = self(*map(self._input, inputs), **{name: self._input(value) for name, value in named.items()})
"""
_NUMBERS_CONVERTED = """
inputs, named = self._inputs(inputs, named)
output = self(*inputs, **named)
"""
_OWN_LOSS = """
named, target = self._unpack(batch)
result = self(**named, labels=target)
loss = result.loss
"""
_LOGITS_LOSS = """
named, target = self._unpack(batch)
result = self(**named)
output = result.logits.movedim(-1, 1)
MATCH
loss = LOSS(output, target)
"""
# A loss that compares numbers would broadcast (batch, 1) against (batch,) to (batch, batch), silently.
_MATCH = """
if output.squeeze().shape != target.squeeze().shape:
    shapes = f"{tuple(output.shape)} and {tuple(target.shape)}"
    raise ValueError(f"output and target have the shapes {shapes}, which do not match")
output = output.reshape(target.shape)
"""
_TO_FLOAT = """
target = self._float_target(target, output)
"""
_TO_CLASSES = """
target = self._class_labels(output, target)
"""
_INPUT = '''
def _input(self, value):
    """Return an input, with floats and uint8 converted to the dtype of the network's parameters."""
    if isinstance(value, torch.Tensor) and (value.is_floating_point() or value.dtype == torch.uint8):
        types = (parameter.dtype for parameter in self.parameters() if parameter.dtype.is_floating_point)
        first = next(types, value.dtype)
        return value if value.dtype == first or value.dtype in types else value.to(first)
    return value
'''
_INPUT_NUMBERS = '''
def _input(self, value, is_number=False):
    """Return an input: floats, uint8 and other integers that are numbers in the dtype of the parameters."""
    if not isinstance(value, torch.Tensor) or value.is_complex():
        return value
    if is_number or value.is_floating_point() or value.dtype == torch.uint8:
        types = (parameter.dtype for parameter in self.parameters() if parameter.dtype.is_floating_point)
        first = next(types, value.dtype)
        return value if value.dtype == first or value.dtype in types else value.to(first)
    return value
'''
_INPUTS = '''
def _inputs(self, inputs, named):
    """Return inputs by position and by name, converted: those that the network computes with are numbers."""
    known = all(place in REQUIRED for place in (*range(len(inputs)), *named))
    numbers = NUMBERS if known else ()
    inputs = tuple(self._input(value, place in numbers) for place, value in enumerate(inputs))
    return inputs, {name: self._input(value, name in numbers) for name, value in named.items()}
'''
_FLOAT_TARGET = '''
def _float_target(self, target, output):
    """Return a target that outputs are compared with, in the dtype of both."""
    return target.to(torch.promote_types(self.dtype, output.dtype))
'''
_CLASS_LABELS = '''
def _class_labels(self, output, target):
    """Return labels as the loss expects them: a class index for each sample, or a probability for each class."""
    if 1 < target.ndim == output.ndim and target.shape[1] == 1 < output.shape[1]:
        target = target.squeeze(1)
    if target.shape == output.shape:
        return self._float_target(target, output)
    if target.is_floating_point() and not torch.equal(target, target.round()):
        raise ValueError("the labels are not integers, but the loss expects class indices. Type --loss mse_loss")
    return target if target.dtype in (torch.int64, torch.uint8) else target.long()
'''
_SIZE = '''
def _size(self, target):
    """Return the number of samples: the length of the first tensor of a target."""
    if isinstance(target, Mapping):
        target = list(target.values())
    if isinstance(target, torch.Tensor):
        return target.shape[:1].numel()
    tensors = [part for part in target if isinstance(part, torch.Tensor)]
    return self._size(tensors[0]) if tensors else len(target)
'''
_UNPACK = '''
def _unpack(self, batch):
    """Return the inputs of a batch by position, those by name, and its target."""
    if isinstance(batch, Mapping):
        for label in ("labels", "label", "target", "targets", "y"):
            if label in batch:
                return ((), {name: value for name, value in batch.items() if name != label}, batch[label])
        keys = ", ".join(str(name) for name in batch)
        raise TypeError(f"a dict batch needs the key labels, label, target, targets or y; found {keys}")
    if isinstance(batch, (tuple, list)) and len(batch) > 1:
        return (batch[:-1], {}, batch[-1])
    length = f" of length {len(batch)}" if isinstance(batch, (tuple, list)) else ""
    raise TypeError(f"a batch is (*inputs, target) or a dict with labels; found a {type(batch).__name__}{length}")
'''
_UNPACK_NAMED = '''
def _unpack(self, batch):
    """Return the inputs of a batch by name, and its labels."""
    if not isinstance(batch, Mapping):
        raise TypeError(f"a transformers model takes batches by name, such as a dict; found a {type(batch).__name__}")
    for label in ("labels", "label"):
        if label in batch:
            return ({name: value for name, value in batch.items() if name != label}, batch[label])
    raise TypeError(f"a batch for a transformers model needs labels; found {', '.join(str(name) for name in batch)}")
'''
_PREDICT = '''
def predict_step(self, batch, batch_idx, dataloader_idx=0):
    """Return the output for a batch, ignoring its target."""
    if isinstance(batch, Mapping):
        labels = ("labels", "label", "target", "targets", "y")
        return self(**{name: self._input(value) for name, value in batch.items() if name not in labels})
    if isinstance(batch, (tuple, list)):
        return self(*map(self._input, batch[:-1] if len(batch) > INPUTS else batch))
    return self(self._input(batch))
'''
_PREDICT_NUMBERS = '''
def predict_step(self, batch, batch_idx, dataloader_idx=0):
    """Return the output for a batch, ignoring its target."""
    inputs, named = (batch,), {}
    if isinstance(batch, Mapping):
        labels = ("labels", "label", "target", "targets", "y")
        inputs, named = (), {name: value for name, value in batch.items() if name not in labels}
    elif isinstance(batch, (tuple, list)):
        inputs = batch[:-1] if len(batch) > INPUTS else batch
    inputs, named = self._inputs(inputs, named)
    return self(*inputs, **named)
'''
_PREDICT_LOGITS = '''
def predict_step(self, batch, batch_idx, dataloader_idx=0):
    """Return the logits for a batch; labels in it are left out."""
    if not isinstance(batch, Mapping):
        raise TypeError(f"a transformers model takes batches by name, such as a dict; found a {type(batch).__name__}")
    return self(**{name: value for name, value in batch.items() if name not in ("labels", "label")}).logits
'''
_PREDICT_GENERATED = '''
def predict_step(self, batch, batch_idx, dataloader_idx=0):
    """Return the token ids that the model generates for a batch, ignoring its labels."""
    if not isinstance(batch, Mapping):
        raise TypeError(f"a transformers model takes batches by name, such as a dict; found a {type(batch).__name__}")
    named = {name: value for name, value in batch.items() if name not in ("labels", "label")}
    return self(**named).logits if "decoder_input_ids" in named else self.net.generate(**named)
'''
_LOG_METRICS = '''
def _log_metrics(self, output, target, stage, dataloader_idx):
    """Update the metrics of a stage and log them, computed over the whole epoch and all ranks."""
    key = f"{stage}_{dataloader_idx}"
    if key not in self.stage_metrics:
        self.stage_metrics[key] = self._make_metrics(output, stage).to(self.device)
    COMPARE
    self.stage_metrics[key].update(output, target)
    for name, metric in self.stage_metrics[key].items(copy_state=False):
        attribute = f"stage_metrics.{key}.{name}"
        self.log(name, metric, on_step=False, on_epoch=True, prog_bar=True, metric_attribute=attribute)
'''
# Compute groups are found by what a first batch gives: metrics that agree on it by chance would be one from then on.
_MAKE_METRICS = '''
def _make_metrics(self, output, stage):
    """Return the metrics of a stage."""
    CHECK
    return torchmetrics.MetricCollection(ENTRIES, prefix=f"{stage}_", compute_groups=False)
'''
_CHECK_CLASSES = """
if output.ndim < 2 or output.shape[1] < 2:
    found = f"found {tuple(output.shape)}. For two classes in one output, define the model with --task binary"
    raise ValueError(f"the metrics need an output of shape (batch, classes, ...); {found}")
"""
_CHECK_ONE_OUTPUT = """
if output.ndim == 2 and output.shape[1] > 1:
    found = f"{output.shape[1]} outputs for each sample. Define the model with --task multilabel"
    raise ValueError(f"the metrics are for two classes, but there are {found}")
"""
_CLASSES_COMPARED = """
output = output.softmax(dim=1)
if target.is_floating_point():
    target = target.argmax(dim=1)
"""
_STEP_NAMES = {"batch", "stage", "dataloader_idx", "size"} | binds(
    ast.parse(text) for text in (_TENSOR_LOSS, _CONVERTED, _OWN_LOSS, _LOGITS_LOSS, _MATCH)
)
HELPERS = (
    "_step",
    "_input",
    "_inputs",
    "_class_labels",
    "_float_target",
    "_size",
    "_unpack",
    "_log_metrics",
    "_make_metrics",
)


@dataclass(frozen=True)
class Steps:
    """What the steps of a model are made of.

    Attributes:
        loss: None for a transformers model's own.
        metrics: None where there are none.
        transformers: whether the network is a transformers model.
        inputs: number of inputs that `forward` cannot do without.
        from_left: whether the network takes texts that begin at the first place.
        generates: whether the network writes a text from a text, which needs one of its own to begin with.
        input_kinds: which inputs of the network are numbers to compute with.
    """

    loss: Loss | None
    metrics: ModelMetrics | None
    transformers: bool = False
    inputs: int = 1
    from_left: bool = False
    generates: bool = False
    input_kinds: Inputs = field(default_factory=Inputs)

    def methods(self, names: Iterable[str]) -> list[ast.FunctionDef]:
        """Return the wanted methods, and the ones that they call."""
        names = set(names)
        forward = _FORWARD_LEFT if self.from_left else _FORWARD
        functions = [method(forward)] if "forward" in names else []
        functions += [method(text) for name, text in _STEPS.items() if name in names]
        if "predict_step" in names:
            predict = _PREDICT_NUMBERS if self.input_kinds.numbers else _PREDICT
            predict = _PREDICT_LOGITS if self.transformers else predict
            predict = _PREDICT_GENERATED if self.generates else predict
            functions.append(method(predict, INPUTS=ast.Constant(max(1, self.inputs))))
        if not self.transformers and names & {"predict_step", *_STEPS}:
            functions += self._conversion()
        if names & set(_STEPS):
            functions += [self._step(), method(_UNPACK_NAMED if self.transformers else _UNPACK)]
            functions += [] if self._has_tensor_target() else [method(_SIZE)]
            functions += [method(_CLASS_LABELS)] if self._takes_classes() else []
            functions += [method(_FLOAT_TARGET)] if self._takes_classes() or self._matches() else []
            if self.metrics is not None:
                functions += [self._log_metrics(self.metrics), self._make_metrics(self.metrics)]
        return functions

    def start(self) -> list[ast.stmt]:
        """Return the statements that `__init__` needs for the steps."""
        loss = self.loss.factory or (self.loss.call if self._hides_loss() else None) if self.loss else None
        statements = snippet("self.loss = LOSS", LOSS=loss) if loss is not None else []
        return statements + (snippet("self.stage_metrics = torch.nn.ModuleDict()") if self.metrics else [])

    def _step(self) -> ast.FunctionDef:
        if self.loss is None:
            forward = snippet(_OWN_LOSS)
            output = expression("result.logits.detach().movedim(-1, 1)")
        else:
            text = _LOGITS_LOSS if self.transformers else _TENSOR_LOSS
            call = expression("self.loss") if self._hides_loss() else self.loss.call
            classes = snippet(_TO_CLASSES) if self._takes_classes() else []
            matched = snippet(_MATCH + _TO_FLOAT) if self._matches() else []
            called = snippet(_NUMBERS_CONVERTED if self.input_kinds.numbers else _CONVERTED)
            forward = snippet(text, LOSS=call, OUTPUT=called, MATCH=classes + matched)
            output = expression("output.detach()")
        call = expression("self._log_metrics(OUTPUT, target, stage, dataloader_idx)", OUTPUT=output)
        # Without a batch axis, the target is of one sample.
        size = "target.shape[:1].numel()" if self._has_tensor_target() else "self._size(target)"
        metrics = [ast.Expr(call)] if self.metrics else []
        return method(_STEP, FORWARD=forward, SIZE=expression(size), METRICS=metrics)

    def _conversion(self) -> list[ast.FunctionDef]:
        """Return the methods that convert inputs."""
        if not self.input_kinds.numbers:
            return [method(_INPUT)]
        places = {"REQUIRED": self.input_kinds.required, "NUMBERS": self.input_kinds.numbers}
        filled = {name: expression(repr(value)) for name, value in places.items()}
        return [method(_INPUT_NUMBERS), method(_INPUTS, **filled)]

    def _takes_classes(self) -> bool:
        """Whether the loss compares the outputs with numbers of classes."""
        return self.loss is not None and self.loss.task == "multiclass"

    def _hides_loss(self) -> bool:
        """Whether the names of `_step` hide one that the code of the loss reads."""
        return self.loss is not None and bool(names_read(self.loss.call) & _STEP_NAMES)

    def _has_tensor_target(self) -> bool:
        """Whether the loss or the metrics take nothing but a tensor for a target."""
        return self.metrics is not None or (self.loss is not None and bool(self.loss.kind))

    def _matches(self) -> bool:
        """Whether the loss compares the outputs with targets of their shape."""
        return self.loss is not None and self.loss.task in ("regression", "binary", "multilabel")

    def _log_metrics(self, metrics: ModelMetrics) -> ast.FunctionDef:
        compare = [] if self._matches() or metrics.task in (None, "multiclass") else snippet(_MATCH)
        if metrics.task == "multiclass":
            compare += snippet(_CLASSES_COMPARED)
        elif metrics.task in ("binary", "multilabel"):
            # Left as logits, torchmetrics would take a batch of them within 0 and 1 for probabilities.
            if self.loss is None or self.loss.kind != "binary_cross_entropy":
                compare += snippet("output = output.sigmoid()")
            compare += snippet("target = (target > 0.5).long()")
        return method(_LOG_METRICS, COMPARE=compare)

    @staticmethod
    def _make_metrics(metrics: ModelMetrics) -> ast.FunctionDef:
        check = snippet(_CHECK_CLASSES) if metrics.by_output else []
        check += snippet(_CHECK_ONE_OUTPUT) if metrics.one_output else []
        return method(_MAKE_METRICS, CHECK=check, ENTRIES=metrics.entries)
