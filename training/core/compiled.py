"""Compiled functions called at minimal cost: flat arguments, one output vector, bound captures.

Nothing here knows about learning. `Compiled` replaces a call of a `tf.function`, whose Python side
(binding arguments, looking up captures) costs more than the arithmetic of a small update. It also
chooses between XLA and a graph by the operations that the function contains.
"""

from __future__ import annotations

import contextlib
import re
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import tensorflow as tf

from ..common.console import say
from ..common.uncopied import Uncopied
from . import checks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorflow.core.framework.graph_pb2 import GraphDef
    from tensorflow.core.framework.node_def_pb2 import NodeDef

Nest: TypeAlias = Any
"""A tensor, or tuples, lists and dicts of them (`tf.nest`)."""

SLOW_BY_XLA = re.compile("(Depthwise)?Conv[23]|MaxPool|AvgPool|ResizeBi")
"""Operations that XLA runs in a naive loop on a CPU: convolutions 9 to 46 times slower."""

DRAWS = re.compile(
    "Random|TruncatedNormal|Multinomial|Shuffle|Rng|Stateful(Uniform|StandardNormal)"
)
"""Operations that draw random numbers; from one seed XLA draws other numbers than a graph."""

ADVANCES = re.compile("Random|(Parameterized)?TruncatedNormal|Multinomial")
"""Random operations with hidden state, such as `tf.random.normal`: XLA resets it in every call."""

NEVER_FAILS = re.compile(
    # arithmetic, functions of one number, and comparisons
    "Abs|AddN|AddV2|Ceil|Cos|Div(NoNan)?|Elu|Erfc?|Exp|Expm1|Floor|LeakyRelu|Lgamma|Log|Log1p|"
    "LogSoftmax|Maximum|Minimum|Mul(NoNan)?|Neg|Pow|RealDiv|Reciprocal|Relu6?|Round|Rsqrt|Selu|"
    "Sigmoid|Sign|Sin|Softmax|Softplus|Softsign|Sqrt|Square|SquaredDifference|Sub|Tanh|Xlogy|"
    "(Elu|LeakyRelu|Relu6?|Rsqrt|Selu|Sigmoid|Softplus|Softsign|Sqrt|Tanh)Grad|"
    "Equal|NotEqual|Greater(Equal)?|Less(Equal)?|Is(Finite|Inf|Nan)|Logical(And|Not|Or)|"
    # sums and products
    "All|Any|ArgMax|ArgMin|Max|Mean|Min|Prod|Sum|(Batch)?MatMul(V2|V3)?|BiasAdd(Grad)?|Einsum|"
    "Conv2D(Backprop(Filter|Input))?|(Max|Avg)Pool(Grad)?|FusedBatchNorm(Grad)?V3|"
    # shapes, all known when the function is traced
    "Broadcast(Args|GradientArgs|To)|Cast|Concat(Offset|V2)|Const|ExpandDims|Fill|Identity|"
    "IdentityN|NoOp|OneHot|OnesLike|Pack|Pad(V2)?|Placeholder|PreventGradient|Range|Rank|Reshape|"
    "Select(V2)?|Shape(N)?|Size|Slice|Split(V)?|Squeeze|StopGradient|StridedSlice(Grad)?|Tile|"
    "Transpose|Unpack|ZerosLike|"
    # variables, random numbers, and calls of functions of such operations
    "Assign(Add|Sub)?VariableOp|ReadVariableOp|VarHandleOp|Stateless(If|Random.*)|If|"
    "(Stateful)?PartitionedCall"
)
"""Operations that succeed for any numbers. Others may refuse a label or an index."""

ASSIGNS = re.compile("(Resource)?(Assign|Scatter).*")
"""Operations that set a variable."""

DIVIDES = "FloorDiv", "FloorMod"
"""They fail if integers are divided by 0; shapes are constants and never divide by 0."""


class Compiled(Uncopied):
    """`function(*nests) -> one float32 vector`, traced for a fixed signature.

    Calls take arrays that match the signature and return the vector as a tensor. The variables that
    the function reads must stay alive; this object holds them through the function's closure.

    Args:
        function: The function to compile.
        signature: A nest of `tf.TensorSpec` for each of its arguments.
        jit_compile: XLA or a graph. By default XLA, but a graph if the function contains operations
            that XLA cannot compile or computes slowly: convolutions and pooling.

    Attributes:
        is_xla: Whether XLA compiles the function.

    Raises:
        ValueError: XLA is requested and cannot compile an operation; or, in a call, arrays differ
            from the signature in structure, shape or kind.
    """

    def __init__(
        self,
        function: Callable[..., tf.Tensor],
        signature: tuple[Nest, ...],
        *,
        jit_compile: bool | None,
    ) -> None:
        self._signature, self._form = signature, _form(signature)
        self._specs = leaves = tf.nest.flatten(signature)
        checks.check_signature(leaves)
        self._leaves = [(tuple(leaf.shape), leaf.dtype.as_numpy_dtype) for leaf in leaves]
        self._may_change = jit_compile is None
        self._function = function
        self.is_xla = jit_compile is not False
        self._trace()
        self._is_tried = not self.is_xla

    def _trace(self) -> None:
        function, signature = self._function, self._signature

        def flat(*arguments: tf.Tensor) -> tf.Tensor:
            return function(*tf.nest.pack_sequence_as(signature, arguments))

        if self.is_xla and self._may_change:
            try:
                with _suiting_xla():
                    inner = body = _concrete(flat, self._specs, jit_compile=True)
                    refuse_slow_by_xla(inner.graph)
            except _Unsuited:
                self.is_xla = False
        if not self.is_xla or not self._may_change:
            inner = body = _concrete(flat, self._specs, jit_compile=self.is_xla)
        if self.is_xla:
            # The call operation in `_run` ignores the jit_compile of its function, so the XLA
            # function is wrapped in another one.
            body = _concrete(lambda *arguments: inner(*arguments), self._specs, jit_compile=False)
        # critical: the operation keeps neither the function nor its captured variables alive.
        self._alive = (function, body, inner)
        self._may_fail = not self.is_xla and may_fail(inner.graph)
        self._body, self._captures = body, list(body.captured_inputs)

    @property
    def is_random(self) -> bool:
        """Whether the function draws random numbers, as Dropout does."""
        return is_random(self._alive[-1].graph)

    @property
    def keeps_drawing(self) -> bool:
        """Whether it draws by operations with hidden state, such as `tf.random.normal`."""
        return any(ADVANCES.match(name) for name in _operations(self._alive[-1].graph))

    def __call__(self, *arguments: Nest) -> tf.Tensor:
        """Runs the function on arrays that match the signature."""
        if _form(arguments) != self._form:  # much cheaper than what follows
            try:
                tf.nest.assert_same_structure(self._signature, arguments)
            except (ValueError, TypeError):
                raise checks.structure_error(self._signature, arguments) from None
        flat = [
            array
            if type(array) is np.ndarray and array.dtype == dtype and array.shape == shape
            else checks.fit(index, array, shape, dtype)
            for index, (array, (shape, dtype)) in enumerate(
                zip(tf.nest.flatten(arguments), self._leaves, strict=True)
            )
        ]
        if not self._is_tried:
            return self._try(flat)
        return self._run(flat)

    def _run(self, flat: list[np.ndarray]) -> tf.Tensor:
        (vector,) = tf.raw_ops.StatefulPartitionedCall(
            args=[*flat, *self._captures], Tout=[tf.float32], f=self._body
        )
        return vector

    def _instead_of_copying(self) -> str:
        return "Copy the models alone, and compile another step of the copies."

    def state(self) -> list[tuple[tf.Variable, tf.Tensor]]:
        """The variables that a call may assign and their values; empty if a call cannot fail.

        Values are copied only when a variable is assigned. Even so, reading all of them before
        every update would slow down small networks.
        """
        if not self._may_fail:
            return []
        read = tf.raw_ops.ReadVariableOp
        return [(v, read(resource=v.handle, dtype=v.dtype)) for v in self._body.variables]

    def _try(self, flat: list[np.ndarray]) -> tf.Tensor:
        """The first call with XLA, which compiles; if that fails, nothing has run yet."""
        self._is_tried = True
        try:
            return self._run(flat)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            if not self._may_change:
                raise checks.xla_error(str(error)) from None
            self.is_xla = False
            reason = checks.xla_reason(str(error))
            say(f"computed as a graph, for XLA cannot compile it: {reason:.200}", error=True)
            self._trace()
            return self._run(flat)


def _form(nest: Nest) -> object:
    """How tuples are nested around arrays. Anything else has a form that equals no other."""
    if isinstance(nest, np.ndarray | tf.TensorSpec):
        return None
    return (type(nest), *map(_form, nest)) if isinstance(nest, tuple) else object()


@contextlib.contextmanager
def restored(state: list[tuple[tf.Variable, tf.Tensor]]) -> Iterator[None]:
    """Context that restores the values of variables if its body fails halfway."""
    try:
        yield
    except BaseException:
        for variable, value in state:
            tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)
        raise


class _Unsuited(Exception):
    """The function being traced for XLA would be slow with it."""


_suits: ContextVar[bool] = ContextVar("_suits", default=False)


@contextlib.contextmanager
def _suiting_xla() -> Iterator[None]:
    """Context in which `refuse_slow_by_xla` ends a trace."""
    token = _suits.set(True)
    try:
        yield
    finally:
        _suits.reset(token)


def refuse_slow_by_xla(graph: tf.Graph | None = None) -> None:
    """Ends a trace for XLA whose operations XLA computes slowly; called functions count as well.

    Call it where much of a trace is still to come. Outside a trace for XLA it does nothing.
    """
    if not _suits.get():
        return
    names = _operations(graph or tf.compat.v1.get_default_graph())
    if any(SLOW_BY_XLA.match(name) for name in names):
        raise _Unsuited


def assigning_functions() -> set[str]:
    """The names of functions that the current graph calls and that assign variables."""
    if tf.executing_eagerly():
        return set()
    functions = tf.compat.v1.get_default_graph().as_graph_def().library.function
    assigning = (f for f in functions if any(ASSIGNS.fullmatch(node.op) for node in f.node_def))
    return {function.signature.name for function in assigning}


def calls_function(node: NodeDef) -> bool:
    """Whether a node of a graph definition calls a function, as loops and branches do, too."""
    return any(each.HasField("func") or each.list.func for each in node.attr.values())


def may_fail(graph: tf.Graph) -> bool:
    """Whether a graph, or a function that it calls, has an operation that may refuse numbers."""
    names = {
        operation.type
        for operation in graph.get_operations()
        if operation.type not in DIVIDES or not all(map(_is_constant, operation.inputs))
    }
    functions = graph.as_graph_def().library.function
    names |= {node.op for function in functions for node in function.node_def}
    return not all(NEVER_FAILS.fullmatch(name) for name in names)


def _is_constant(tensor: tf.Tensor) -> bool:
    """Whether a tensor is the same in every call."""
    operation = tensor.op
    if not operation.inputs:
        return bool(operation.type == "Const")
    return operation.type != "ReadVariableOp" and all(map(_is_constant, operation.inputs))


def is_random(graph: tf.Graph) -> bool:
    """Whether a graph, or a function that it calls, draws random numbers."""
    return any(DRAWS.search(name) for name in _operations(graph))


def _operations(graph: tf.Graph) -> set[str]:
    """The kinds of operations in a graph and in the functions that it calls."""
    return {node.op for node in nodes_of(graph.as_graph_def())}


def nodes_of(definition: GraphDef) -> Iterator[NodeDef]:
    """The operations of a graph definition and of the functions that it calls."""
    yield from definition.node
    for function in definition.library.function:
        yield from function.node_def


def _concrete(
    function: Callable[..., tf.Tensor], leaves: list[tf.TensorSpec], *, jit_compile: bool
) -> tf.types.experimental.ConcreteFunction:
    return tf.function(
        function, input_signature=leaves, jit_compile=jit_compile, autograph=False
    ).get_concrete_function()
