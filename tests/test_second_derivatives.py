"""Products of many operations and layers, by every engine, against differences of gradients."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as f
from torch.nn.attention import SDPBackend, sdpa_kernel

from estimators import (
    BilevelProblem,
    OptionError,
    Params,
    create,
    estimate_batch,
    module_problem,
    trainable,
)
from estimators.base.attention import plain_attention
from estimators.base.failures import missing_derivative
from estimators.base.meta_batch import Batching
from estimators.base.tree import axpy
from estimators.hvp import hvp
from tests.support.oracle import flatten, relative_error

Operation = Callable[[Tensor], Tensor]

EYE = torch.eye(4).double()
LABELS = torch.tensor([0, 1, 2, 3])
INDEX = torch.tensor([[0, 1, 2, 3], [3, 2, 0, 0], [1, 1, 1, 1], [2, 0, 3, 1]])
ONES = torch.ones(4, 4).double()


def spd(z: Tensor) -> Tensor:
    return z @ z.T + EYE


def lower(z: Tensor) -> Tensor:
    return z.tril() + 3 * EYE


def image(z: Tensor) -> Tensor:
    return z[None, None]


def split_complex(z: Tensor) -> Tensor:
    return torch.view_as_real(z).flatten()


def layer(module: nn.Module, *, train: bool = False) -> Operation:
    module = module.double().train(train)

    def apply(z: Tensor) -> Tensor:
        result = module(z)
        return result if isinstance(result, Tensor) else result[0]

    return apply


torch.manual_seed(0)
DECODER = nn.TransformerDecoderLayer(4, 2, 8, 0.0, batch_first=True).double()

LINEAR_ALGEBRA: dict[str, Operation] = {
    "solve": lambda z: torch.linalg.solve(spd(z), z),
    "solve from the left": lambda z: torch.linalg.solve(spd(z), z, left=False),
    "det": lambda z: torch.linalg.det(spd(z)),
    "det, singular": lambda z: torch.linalg.det(z * torch.tensor([1.0, 1.0, 1.0, 0.0]).double()),
    "slogdet": lambda z: torch.linalg.slogdet(spd(z))[1],
    "logdet": lambda z: torch.logdet(spd(z)),
    "inv": lambda z: torch.linalg.inv(spd(z)),
    "pinv": lambda z: torch.linalg.pinv(z[:, :2]),
    "pinv, symmetric": lambda z: torch.linalg.pinv(spd(z), hermitian=True),
    "cholesky": lambda z: torch.linalg.cholesky(spd(z)),
    "cholesky_solve": lambda z: torch.cholesky_solve(z, lower(z)),
    "cholesky_inverse": lambda z: torch.cholesky_inverse(lower(z)),
    "solve_triangular": lambda z: torch.linalg.solve_triangular(lower(z), z, upper=False),
    "triangular_solve": lambda z: torch.triangular_solve(z, lower(z), upper=False)[0],
    "eigh": lambda z: torch.linalg.eigh(spd(z))[1].square(),
    "eigvalsh": lambda z: torch.linalg.eigvalsh(spd(z)),
    "eig": lambda z: torch.linalg.eig(z + torch.diag(torch.arange(4.0)).double())[0].abs(),
    "svd": lambda z: torch.linalg.svd(z)[0].square(),
    "svdvals": torch.linalg.svdvals,
    "qr": lambda z: torch.cat(torch.linalg.qr(z)),
    "lu": lambda z: torch.linalg.lu(z)[2],
    "lu_solve": lambda z: torch.linalg.lu_solve(*torch.linalg.lu_factor(spd(z)), z),
    "lstsq": lambda z: torch.linalg.lstsq(z[:, :2], z[:, 2:])[0],
    "matrix_exp": torch.linalg.matrix_exp,
    "matrix_power": lambda z: torch.linalg.matrix_power(spd(z), -2),
    "householder_product": lambda z: torch.linalg.householder_product(z, z[0]),
    "nuclear norm": lambda z: torch.linalg.matrix_norm(z, "nuc"),
    "norms": lambda z: torch.stack([torch.linalg.vector_norm(z, p) for p in (0.5, 1, 2, 3)]),
    "multi_dot": lambda z: torch.linalg.multi_dot([z, z, z]),
    "cdist": lambda z: torch.cdist(z, z.flip(0) * 2),
    "pdist": f.pdist,
    "pairwise_distance": lambda z: f.pairwise_distance(z, z.flip(0), p=3),
    "cosine_similarity": lambda z: f.cosine_similarity(z, z.flip(0)),
    "einsum": lambda z: torch.einsum("ij,kj,ik->k", z, z, z),
    "sparse @ dense": lambda z: torch.sparse.mm(EYE.to_sparse(), z.sin()),
}
SHAPING: dict[str, Operation] = {
    "prod at one zero": lambda z: torch.prod(z * (torch.arange(4) > 0) + 0 * z, 1),
    "cumprod at a zero": lambda z: torch.cumprod(z * (torch.arange(4) != 1), 1),
    "cumsum": lambda z: z.square().cumsum(1),
    "logcumsumexp": lambda z: torch.logcumsumexp(z, 1),
    "logsumexp": lambda z: torch.logsumexp(z, 1),
    "sort and topk": lambda z: z.sort(0)[0] * z.topk(2, 1)[0].sum(),
    "median and quantile": lambda z: z.median() * z.quantile(0.3),
    "scatter": lambda z: z.scatter(1, INDEX.argsort(1), z.flip(0)),
    "scatter_add": lambda z: z.scatter_add(1, INDEX, z.flip(0)),
    "scatter_reduce(mean)": lambda z: z.scatter_reduce(1, INDEX, z.flip(0), "mean"),
    "scatter_reduce(amax)": lambda z: z.scatter_reduce(1, INDEX, z.flip(0), "amax"),
    "scatter_reduce(prod)": lambda z: z.scatter_reduce(1, INDEX, z.flip(0), "prod"),
    "index_reduce": lambda z: z.index_reduce(0, LABELS // 2, z.flip(0), "prod"),
    "segment_reduce": lambda z: torch.segment_reduce(z, "sum", lengths=torch.tensor([1, 3])),
    "gather": lambda z: z.gather(1, INDEX),
    "index_put": lambda z: z.sin().index_put((LABELS // 2,), z, accumulate=True),
    "where": lambda z: torch.where(z > 0, z.sin(), z.exp()),
    "fft": lambda z: torch.fft.fft2(z).abs(),
    "rfft": lambda z: torch.fft.irfft(torch.fft.rfft(z) ** 2, n=5),
    "stft": lambda z: torch.stft(
        z.flatten(), 8, return_complex=True, window=ONES[0].repeat(2)
    ).abs(),
    "polar": lambda z: split_complex(torch.polar(z.exp(), z)),
    "renorm": lambda z: z.renorm(2, 0, 0.5),
    "var and std": lambda z: z.var(0) * z.std(1),
    "unfold and fold": lambda z: f.fold(f.unfold(image(z.sin()), 2), (4, 4), 2),
    "grid_sample": lambda z: f.grid_sample(image(z), z.reshape(1, 4, 2, 2), align_corners=False),
    "bicubic": lambda z: f.interpolate(image(z.sin()), scale_factor=1.5, mode="bicubic"),
    "bilinear": lambda z: f.interpolate(image(z.sin()), scale_factor=1.5, mode="bilinear"),
    "padding": lambda z: f.pad(image(z.sin()), (1, 1, 1, 1), mode="reflect"),
    "max_pool": lambda z: f.max_pool2d(image(z), 2),
    "avg_pool": lambda z: f.avg_pool2d(image(z.sin()), 2),
    "lp_pool": lambda z: f.lp_pool2d(image(z.exp()), 2, 2),
    "adaptive pools": lambda z: (
        f.adaptive_avg_pool2d(image(z), 3) * f.adaptive_max_pool2d(image(z), 3)
    ),
    "max_unpool": lambda z: f.max_unpool2d(*f.max_pool2d(image(z), 2, return_indices=True), [2, 2]),
}
ACTIVATIONS: list[Operation] = [f.relu, f.relu6, f.leaky_relu, f.elu, f.selu, f.celu, f.gelu]
ACTIVATIONS += [f.silu, f.mish]
ACTIVATIONS += [f.softplus, f.softsign, f.tanhshrink, f.hardtanh, f.hardswish, f.hardsigmoid]
ACTIVATIONS += [f.hardshrink, f.softshrink, f.logsigmoid, f.sigmoid, f.tanh, f.glu]
ACTIVATIONS += [torch.erf, torch.lgamma, torch.sinc]
LAYERS: dict[str, Operation] = {
    **{each.__name__: each for each in ACTIVATIONS},
    "gelu(tanh)": lambda z: f.gelu(z, approximate="tanh"),
    "prelu": lambda z: f.prelu(z, z[0, :1]),
    "softmax": lambda z: f.softmax(z, 1),
    "log_softmax": lambda z: f.log_softmax(z, 1),
    "softmin": lambda z: f.softmin(z, 1),
    "layer_norm": lambda z: f.layer_norm(z, (4,), z[0], z[1]),
    "group_norm": lambda z: f.group_norm(z, 2, z[0], z[1]),
    "batch_norm": lambda z: f.batch_norm(z, None, None, z[0], z[1], training=True),
    "instance_norm": lambda z: f.instance_norm(image(z)),
    "rms_norm": lambda z: f.rms_norm(z, (4,), z[0]),
    "local_response_norm": lambda z: f.local_response_norm(image(z), 2),
    "normalize": f.normalize,
    "conv1d": lambda z: f.conv1d(z[None], z.reshape(2, 4, 2)),
    "conv2d": lambda z: f.conv2d(image(z), z[None, None, :2, :2], stride=2),
    "conv3d": lambda z: f.conv3d(z.reshape(1, 1, 2, 2, 4), z[None, None, None, :2, :2]),
    "conv_transpose2d": lambda z: f.conv_transpose2d(image(z), z[None, None, :2, :2]),
    "bilinear form": lambda z: f.bilinear(z, z, z[None]),
    "embedding": lambda z: f.embedding(INDEX, z.sin()),
    "embedding_bag": lambda z: f.embedding_bag(INDEX, z.sin()),
    "gru_cell": lambda z: torch.gru_cell(z[:, :1], z[:, 1:2], z[:3, :1], z[:3, 1:2]),
    "LSTM": layer(nn.LSTM(4, 3, bidirectional=True), train=True),
    "GRU": layer(nn.GRU(4, 3)),
    "RNN": layer(nn.RNN(4, 3)),
    "spectral_norm": layer(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))),
    "orthogonal": layer(nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))),
    "attention": lambda z: f.scaled_dot_product_attention(image(z), image(z.sin()), image(z)),
    "causal attention": lambda z: f.scaled_dot_product_attention(
        image(z), image(z), image(z), is_causal=True
    ),
    "masked attention": lambda z: f.scaled_dot_product_attention(
        image(z), image(z), image(z), attn_mask=INDEX > 0
    ),
    "TransformerEncoderLayer": layer(nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True)),
    "TransformerDecoderLayer": lambda z: DECODER(z, z.flip(0)),
    "mse_loss": lambda z: f.mse_loss(z, ONES),
    "huber_loss": lambda z: f.huber_loss(3 * z, ONES),
    "smooth_l1_loss": lambda z: f.smooth_l1_loss(3 * z, ONES),
    "cross_entropy": lambda z: f.cross_entropy(z, LABELS, label_smoothing=0.1),
    "nll_loss": lambda z: f.nll_loss(z.log_softmax(1), LABELS),
    "kl_div": lambda z: f.kl_div(z.log_softmax(1), z.softmax(0), reduction="batchmean"),
    "binary_cross_entropy": lambda z: f.binary_cross_entropy(z.sigmoid(), ONES / 3),
    "with logits": lambda z: f.binary_cross_entropy_with_logits(z, ONES / 3),
    "poisson_nll_loss": lambda z: f.poisson_nll_loss(z, ONES),
    "gaussian_nll_loss": lambda z: f.gaussian_nll_loss(z, ONES, z.exp()),
    "soft_margin_loss": lambda z: f.soft_margin_loss(z, ONES),
    "multi_margin_loss": lambda z: f.multi_margin_loss(z, LABELS),
    "multilabel_margin_loss": lambda z: f.multilabel_margin_loss(z, INDEX[:1].repeat(4, 1)),
    "triplet_margin_loss": lambda z: f.triplet_margin_loss(z, z.flip(0), z.flip(1)),
    "cosine_embedding_loss": lambda z: f.cosine_embedding_loss(z, z.flip(0), 1 - 2 * (LABELS % 2)),
    "ctc_loss": lambda z: f.ctc_loss(
        z[:, None].log_softmax(2), LABELS[1:2], torch.tensor([4]), torch.tensor([1])
    ),
}
OPERATIONS = LINEAR_ALGEBRA | SHAPING | LAYERS

DISTANCES = {"cdist", "pdist"}
TWICE = {"segment_reduce", "hardsigmoid", "embedding_bag", "ctc_loss"} | {
    "multi_margin_loss",
    "multilabel_margin_loss",
}
if torch.__version__ < "2.14":
    TWICE |= DISTANCES
REFUSED = {
    "reverse": TWICE,
    "func": TWICE,
    "forward": TWICE
    | DISTANCES
    | {"cholesky_inverse", "triangular_solve", "scatter_reduce(prod)", "index_reduce"}
    | {"sparse @ dense", "grid_sample", "mse_loss", "huber_loss", "soft_margin_loss"}
    | ({"det, singular"} if torch.__version__ >= "2.15" else set()),
}


def loss_of(operation: Operation) -> Callable[[Params], Tensor]:
    def loss(params: Params) -> Tensor:
        result = operation(params["z"])
        weights = torch.linspace(0.5, 1.5, result.numel()).double().reshape(result.shape)
        return (weights * (result + result.square())).sum()

    return loss


def point(seed: int) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return {"z": torch.randn(4, 4, generator=generator, dtype=torch.float64)}


def gradient(operation: Operation, params: Params) -> Tensor:
    z = params["z"].clone().requires_grad_()
    return torch.autograd.grad(loss_of(operation)({"z": z}), z)[0]


@pytest.mark.parametrize("name", OPERATIONS)
def test_products_are_differences_of_gradients_or_refused_by_name(name: str) -> None:
    operation, params, vector = OPERATIONS[name], point(1), point(2)
    steps = (gradient(operation, axpy(step, vector, params)) for step in (1e-5, -1e-5))
    expected = (next(steps) - next(steps)).flatten() / 2e-5
    for engine, refused in REFUSED.items():
        if name in refused:
            with pytest.raises(OptionError):
                hvp(loss_of(operation), params, vector, engine=engine)
        else:
            product = hvp(loss_of(operation), params, vector, engine=engine)
            assert relative_error(product, expected) < 1e-6, engine


SECOND_ORDER = [
    "maml",
    "maml(checkpoint='sqrt')",
    "truncated(order=1)",
    "adjoint",
    "adjoint(engine='func')",
    "binom(order=1)",
    "binom(order=1, batching='vmap')",
    "binom-chebyshev(order=1)",
    "imaml(lam=1.0)",
    "imaml(lam=1.0, solver='nystrom')",
    "neumann(terms=1, lam=1.0)",
    "drmad",
    "lazy",
    "mixed",
    "anil",
]
FIRST_ORDER = ["hf-maml", "fomaml", "reptile", "contrastive(lam=1.0)"]


def problem_of(operation: Operation) -> BilevelProblem:
    return BilevelProblem(loss_of(operation), loss_of(operation), 0.01, 2)


@pytest.mark.parametrize("name", ["embedding_bag", "hardsigmoid", "multi_margin_loss"])
def test_second_derivatives_that_torch_lacks_are_refused_with_a_way_out(name: str) -> None:
    problem, params = problem_of(OPERATIONS[name]), point(1)
    for spec in SECOND_ORDER:
        with pytest.raises(OptionError, match=f"{name} twice .*hf-maml, fomaml"):
            create(spec)(problem, params)
    for spec in ("imaml(lam=1.0)", "mixed", "anil"):
        with pytest.raises(OptionError, match=f"{name} twice"):
            create(spec).own_exact_gradient(problem, params)
    for spec in FIRST_ORDER:
        assert create(spec)(problem, params).gradient["z"].isfinite().all()


def test_messages_of_other_libraries_are_known_and_other_errors_are_not_touched() -> None:
    for message in (
        "the derivative for '_cudnn_rnn_backward' is not implemented. Double backwards is not "
        "supported for CuDNN RNNs due to limitations in the CuDNN API.",
        "double backwards on roi_align not supported",
        "trying to differentiate twice a function that was marked with @once_differentiable",
        "div(): functions with out=... arguments don't support automatic differentiation, but one "
        "of the arguments requires grad.",
    ):
        refusal = missing_derivative(RuntimeError(message + "\nmore"))
        assert refusal is not None
        assert message in str(refusal)
        assert "hf-maml" in str(refusal)
    first = missing_derivative(RuntimeError("the derivative for 'geqrf' is not implemented."))
    assert "geqrf" in str(first)
    assert "hf-maml" not in str(first)
    assert missing_derivative(RuntimeError("shapes cannot be multiplied")) is None


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), KeyError("mine")])
@pytest.mark.parametrize("engine", REFUSED)
def test_errors_of_the_loss_and_of_memory_pass_as_they_are(engine: str, error: Exception) -> None:
    def failing(z: Tensor) -> Tensor:
        raise error

    with pytest.raises(type(error)) as caught:
        hvp(loss_of(failing), point(1), point(2), engine=engine)
    assert caught.value is error


# Attention.


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        mixed: Tensor = self.attention(x, x, x, need_weights=False)[0]
        result: Tensor = self.head(mixed.mean(1))
        return result


def transformer_problem(dtype: torch.dtype, train: bool) -> tuple[BilevelProblem, Params]:
    torch.manual_seed(0)
    model = Transformer().to(dtype).train(train)
    support, query = ((torch.randn(6, 3, 4).to(dtype), torch.randn(6, 1).to(dtype)),) * 2
    problem = module_problem(model, f.mse_loss, support, query, step_size=0.1, steps=2)
    return problem, trainable(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("train", [True, False])
def test_transformers_are_differentiated_twice(dtype: torch.dtype, train: bool) -> None:
    problem, params = transformer_problem(dtype, train)
    exact = flatten(create("hf-maml")(*transformer_problem(torch.float64, train)).gradient)
    tolerance = 1e-5 if dtype == torch.float64 else 1e-3
    specs = ["maml", "maml(checkpoint='sqrt')", "adjoint", "adjoint(engine='func')", "truncated"]
    specs += ["binom", "binom(batching='vmap')", "binom(engine='func', batching='vmap')"]
    for spec in specs:
        options = {"order": 2} if spec.startswith(("truncated", "binom")) else {}
        gradient = create(spec, **options)(problem, params).gradient
        assert relative_error(gradient, exact.to(dtype)) < tolerance, spec
    for spec in (*SECOND_ORDER, *FIRST_ORDER):
        assert flatten(create(spec)(problem, params).gradient).isfinite().all(), spec
    for spec in ("maml", "fomaml"):
        one, two = (
            estimate_batch(create(spec), [problem] * 2, params, batching=batching).gradient
            for batching in get_args(Batching)
        )
        assert relative_error(one, flatten(two)) < tolerance, spec


def settings() -> list[bool]:
    cuda = torch.backends.cuda
    fused = [cuda.flash_sdp_enabled, cuda.mem_efficient_sdp_enabled, cuda.cudnn_sdp_enabled]
    asked: list[Callable[[], bool]] = [*fused, cuda.math_sdp_enabled]
    return [ask() for ask in (*asked, torch.backends.mha.get_fastpath_enabled)]


def test_only_what_is_differentiated_twice_is_kept_from_fused_attention() -> None:
    seen: list[list[bool]] = []

    def watched(params: Params) -> Tensor:
        seen.append(settings())
        return params["z"].square().sum()

    def failing(params: Params) -> Tensor:
        raise KeyError("mine")

    before, plain = settings(), [False, False, False, True]
    for spec in (*SECOND_ORDER, *FIRST_ORDER):
        seen.clear()
        create(spec)(BilevelProblem(watched, watched, 0.1, 2), point(1))
        assert any(each[:4] == plain for each in seen) == (spec in SECOND_ORDER), spec
        assert any(each[:4] == before[:4] for each in seen), spec
        assert not any(each[4] for each in seen), spec
        assert settings() == before
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        own = settings()
        for problem in (BilevelProblem(watched, watched, 0.1, 2), problem_of(f.hardsigmoid)):
            with suppress(OptionError):
                create("maml")(problem, point(1))
            assert settings() == own
        with pytest.raises(KeyError):
            create("maml")(BilevelProblem(failing, failing, 0.1, 2), point(1))
        assert settings() == own


def test_the_last_thread_to_leave_restores_the_settings() -> None:
    before, inside, go = settings(), threading.Event(), threading.Event()

    def other() -> None:
        with plain_attention():
            inside.set()
            go.wait()

    thread = threading.Thread(target=other)
    with plain_attention():
        thread.start()
        inside.wait()
    still = settings()
    go.set()
    thread.join()
    assert still[:4] == [False, False, False, True]
    assert settings() == before
