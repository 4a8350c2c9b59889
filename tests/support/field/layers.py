"""Modules, by what they are called."""

import random
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize, prune, rnn
from torch.utils.checkpoint import checkpoint_sequential

from tests.support.field.case import (
    IMAGES,
    SEQUENCES,
    SIGNALS,
    TOKENS,
    VECTORS,
    VOLUMES,
    Case,
    Net,
    before,
    law,
    layer,
    mlp,
)
from tests.support.field.parts import (
    Centred,
    Codebook,
    Counting,
    Cube,
    CubeForAll,
    CubeOfContext,
    CubeOfNumbers,
    CubeOnce,
    Positive,
    Recurrent,
    ResidualBlock,
    Reversed,
    Rounded,
    StepwiseNorm,
    along,
    attention,
    backward_hooked,
    between,
    by,
    by_cell,
    cached_weight,
    checked,
    conv,
    decoder,
    drop_path,
    encoder,
    energy,
    energy_by_transform,
    equilibrium,
    experts,
    film,
    hooked,
    hypernetwork,
    laid_aside,
    messages,
    own_list,
    positions,
    private_numpy,
    private_random,
    private_torch,
    remembering,
    runge_kutta,
    saved,
    scaled_dot_product,
    settled,
    spatial_transformer,
)

DRAWS = r"draw|random"
WRITES = r"writ|another result|changed"
CURVATURE = r"derivative|gradient"
OWN = r"own|earlier"

ACTIVATIONS: dict[str, Case] = {
    repr(activation): layer(partial(mlp, 2, activation))
    for activation in (
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.LeakyReLU(0.1),
        nn.ReLU6(),
        nn.ELU(),
        nn.SELU(),
        nn.CELU(0.7),
        nn.GELU(),
        nn.GELU("tanh"),
        nn.SiLU(),
        nn.Mish(),
        nn.Hardswish(),
        nn.Hardtanh(),
        nn.Softplus(),
        nn.Softplus(beta=2, threshold=1),
        nn.Softsign(),
        nn.Softshrink(0.1),
        nn.Hardshrink(0.1),
        nn.Tanhshrink(),
        nn.Sigmoid(),
        nn.LogSigmoid(),
        nn.Threshold(0.1, 0.0),
        nn.PReLU(),
        nn.PReLU(4),
        nn.Softmax(-1),
        nn.LogSoftmax(-1),
        nn.Softmin(-1),
        nn.RReLU().eval(),
        nn.Dropout(0.5).eval(),
        nn.Dropout(0.0),
        nn.AlphaDropout(0.5).eval(),
        nn.Identity(),
        nn.LayerNorm(4),
        nn.LayerNorm(4, elementwise_affine=False),
        nn.RMSNorm(4),
        nn.GroupNorm(2, 4),
        nn.BatchNorm1d(4, track_running_stats=False),
        settled(nn.BatchNorm1d(4)),
        settled(nn.SyncBatchNorm(4)),
    )
}

CONVOLUTIONS: dict[str, Case] = {
    "Conv1d": layer(lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Conv1d(3, 1, 2)), SIGNALS),
    "Conv2d": layer(lambda: conv(nn.Conv2d(4, 2, 3, stride=2)), IMAGES),
    "Conv3d": layer(lambda: nn.Sequential(nn.Conv3d(2, 2, 2), nn.Tanh(), nn.Conv3d(2, 1, 2)), VOLUMES),
    "grouped": layer(lambda: conv(nn.Conv2d(4, 4, 3, groups=2)), IMAGES),
    "depthwise, then pointwise": layer(lambda: conv(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1)), IMAGES),
    "dilated": layer(lambda: conv(nn.Conv2d(4, 2, 3, dilation=2)), IMAGES),
    "same padding": layer(lambda: conv(nn.Conv2d(4, 2, 4, padding="same")), IMAGES),
    "circular padding": layer(lambda: conv(nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular")), IMAGES),
    "reflecting padding": layer(lambda: conv(nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect")), IMAGES),
    "ConvTranspose1d": layer(lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.ConvTranspose1d(3, 1, 2)), SIGNALS),
    "ConvTranspose2d": layer(lambda: conv(nn.ConvTranspose2d(4, 2, 3, stride=2, output_padding=1)), IMAGES),
    "ConvTranspose3d": layer(lambda: nn.Sequential(nn.Conv3d(2, 2, 2), nn.Tanh(), nn.ConvTranspose3d(2, 1, 2)), VOLUMES),
    "lazy, shaped": layer(lambda: shaped(), IMAGES, step_size=0.02),
    "lazy, not shaped yet": layer(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LazyLinear(2)), VECTORS, "(?i)lazy"),
    "channels last": layer(lambda: channels_last(conv(nn.Conv2d(4, 2, 3))), IMAGES),
    "residual, GroupNorm": layer(lambda: conv(ResidualBlock(lambda: nn.GroupNorm(2, 4))), IMAGES),
    "residual, settled BatchNorm": layer(lambda: conv(ResidualBlock(lambda: settled(nn.BatchNorm2d(4)))), IMAGES),
    "residual, tracking BatchNorm": layer(lambda: conv(ResidualBlock(lambda: nn.BatchNorm2d(4))), IMAGES, "BatchNorm2d"),
    "BatchNorm1d, tracking": layer(lambda: mlp(activation=nn.BatchNorm1d(4)), VECTORS, "BatchNorm1d"),
    "BatchNorm2d, of the batch": layer(lambda: conv(nn.BatchNorm2d(4, track_running_stats=False)), IMAGES),
    "BatchNorm2d, cumulative": layer(lambda: conv(nn.BatchNorm2d(4, momentum=None)), IMAGES, "BatchNorm2d"),
    "BatchNorm3d, settled": layer(lambda: nn.Sequential(nn.Conv3d(2, 2, 2), settled(nn.BatchNorm3d(2)), nn.Tanh()), VOLUMES),
    "InstanceNorm1d": layer(lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.InstanceNorm1d(3, affine=True)), SIGNALS),
    "InstanceNorm2d": layer(lambda: conv(nn.InstanceNorm2d(4)), IMAGES),
    "InstanceNorm2d, tracking": layer(lambda: conv(nn.InstanceNorm2d(4, track_running_stats=True)), IMAGES, "InstanceNorm2d"),
    "LayerNorm of images": layer(lambda: conv(nn.LayerNorm([4, 6, 6])), IMAGES),
    "LocalResponseNorm": layer(lambda: conv(nn.LocalResponseNorm(2, alpha=1.0)), IMAGES),
    "MaxPool1d": layer(lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.MaxPool1d(2)), SIGNALS),
    "MaxPool2d": layer(lambda: conv(nn.MaxPool2d(2)), IMAGES),
    "MaxPool3d": layer(lambda: nn.Sequential(nn.Conv3d(2, 2, 2), nn.MaxPool3d(2)), VOLUMES),
    "AvgPool2d": layer(lambda: conv(nn.AvgPool2d(3, 2, padding=1)), IMAGES),
    "AvgPool3d": layer(lambda: nn.Sequential(nn.Conv3d(2, 2, 2), nn.Tanh(), nn.AvgPool3d(2)), VOLUMES),
    "AdaptiveAvgPool2d(1)": layer(lambda: conv(nn.AdaptiveAvgPool2d(1)), IMAGES),
    "AdaptiveAvgPool2d(4)": layer(lambda: conv(nn.AdaptiveAvgPool2d(4)), IMAGES),
    "AdaptiveMaxPool2d": layer(lambda: conv(nn.AdaptiveMaxPool2d(4)), IMAGES),
    "LPPool2d": layer(lambda: conv(nn.LPPool2d(2, 2)), IMAGES),
    "FractionalMaxPool2d": layer(lambda: conv(nn.FractionalMaxPool2d(2, 4)), IMAGES, DRAWS, "FractionalMaxPool2d"),
    "FractionalMaxPool2d, in evaluation mode": layer(lambda: conv(nn.FractionalMaxPool2d(2, 4)).eval(), IMAGES, DRAWS, "FractionalMaxPool2d"),
    "MaxUnpool2d": layer(lambda: Net(lambda m, x: m.back(*m.pool(m.body(x))), body=conv(), pool=nn.MaxPool2d(2, return_indices=True), back=nn.MaxUnpool2d(2)), IMAGES),
    "PixelShuffle": layer(lambda: conv(nn.PixelShuffle(2)), IMAGES),
    "PixelUnshuffle": layer(lambda: conv(nn.PixelUnshuffle(2)), IMAGES),
    "ChannelShuffle": layer(lambda: conv(nn.ChannelShuffle(2)), IMAGES),
    "Upsample, nearest": layer(lambda: conv(nn.Upsample(scale_factor=2)), IMAGES),
    "Upsample, bilinear": layer(lambda: conv(nn.Upsample(size=(5, 7), mode="bilinear")), IMAGES),
    "Upsample, bicubic": layer(lambda: conv(nn.Upsample(scale_factor=2, mode="bicubic")), IMAGES, step_size=0.3),
    "interpolate, antialias": layer(lambda: Net(lambda m, x: functional.interpolate(m.body(x), (3, 3), mode="bilinear", antialias=True), body=conv()), IMAGES),
    "Unfold and Fold": layer(lambda: conv(nn.Unfold(3), nn.Linear(16, 16), nn.Tanh(), nn.Fold((6, 6), 3)), IMAGES),
    "ReflectionPad2d": layer(lambda: conv(nn.ReflectionPad2d(2)), IMAGES),
    "ReplicationPad2d": layer(lambda: conv(nn.ReplicationPad2d(1)), IMAGES),
    "squeeze and excitation": layer(
        lambda: Net(lambda m, x: m.body(x) * m.gate(m.body(x).mean((2, 3)))[..., None, None], body=conv(), gate=nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())), IMAGES
    ),
    "spatial transformer": layer(spatial_transformer, IMAGES),
    "spectral convolution": layer(lambda: Net(lambda m, x: torch.fft.irfft(torch.fft.rfft(x.tanh()) * torch.view_as_complex(m.w)), w=nn.Parameter(torch.ones(2, 5, 2))), SIGNALS),
    "channel dropout": layer(lambda: conv(nn.Dropout2d(0.5)), IMAGES, DRAWS, "Dropout2d"),
}

SEQUENTIAL: dict[str, Case] = {
    "LSTM": layer(lambda: Recurrent(nn.LSTM), SEQUENCES),
    "LSTM of two layers, both ways": layer(lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True, width=6), SEQUENCES),
    "LSTM with a projection": layer(lambda: Recurrent(nn.LSTM, proj_size=2, width=2), SEQUENCES),
    "GRU": layer(lambda: Recurrent(nn.GRU), SEQUENCES),
    "RNN": layer(lambda: Recurrent(nn.RNN), SEQUENCES),
    "RNN, relu": layer(lambda: Recurrent(nn.RNN, nonlinearity="relu"), SEQUENCES),
    "LSTMCell": layer(lambda: by_cell(nn.LSTMCell), SEQUENCES),
    "GRUCell": layer(lambda: by_cell(nn.GRUCell), SEQUENCES),
    "RNNCell": layer(lambda: by_cell(nn.RNNCell), SEQUENCES),
    "LSTM, packed": layer(
        lambda: Net(lambda m, x: m.head(m.core(rnn.pack_padded_sequence(x, [5, 4, 2, 1], batch_first=True))[1][0][-1]), core=nn.LSTM(3, 3, batch_first=True), head=nn.Linear(3, 2)),
        SEQUENCES,
    ),
    "LSTM, dropout": layer(lambda: Recurrent(nn.LSTM, num_layers=2, dropout=0.5), SEQUENCES, DRAWS, "LSTM"),
    "GRU, dropout": layer(lambda: Recurrent(nn.GRU, num_layers=2, dropout=0.5), SEQUENCES, DRAWS, "GRU"),
    "RNN, dropout": layer(lambda: Recurrent(nn.RNN, num_layers=2, dropout=0.5), SEQUENCES, DRAWS, "RNN"),
    "LSTM, dropout, evaluation mode": layer(lambda: Recurrent(nn.LSTM, num_layers=2, dropout=0.5).eval(), SEQUENCES),
    "MultiheadAttention": layer(attention, SEQUENCES),
    "MultiheadAttention, no weights": layer(lambda: attention(need_weights=False), SEQUENCES),
    "MultiheadAttention, evaluation mode": layer(lambda: attention(need_weights=False, dropout=0.5).eval(), SEQUENCES),
    "MultiheadAttention, dropout": layer(lambda: attention(dropout=0.5), SEQUENCES, DRAWS, "MultiheadAttention"),
    "MultiheadAttention, no weights, dropout": layer(lambda: attention(need_weights=False, dropout=0.5), SEQUENCES, DRAWS, "MultiheadAttention"),
    "scaled dot products": layer(scaled_dot_product, SEQUENCES),
    "scaled dot products, causal": layer(lambda: scaled_dot_product(is_causal=True), SEQUENCES),
    "scaled dot products, dropout": layer(lambda: scaled_dot_product(dropout_p=0.3), SEQUENCES, DRAWS),
    "TransformerEncoderLayer": layer(encoder, SEQUENCES),
    "TransformerEncoderLayer, norm first, gelu": layer(lambda: encoder(norm_first=True, activation="gelu"), SEQUENCES),
    "TransformerEncoderLayer, evaluation mode": layer(lambda: encoder(dropout=0.1).eval(), SEQUENCES),
    "TransformerEncoderLayer, dropout": layer(lambda: encoder(dropout=0.1), SEQUENCES, DRAWS, "Dropout|MultiheadAttention"),
    "TransformerEncoder, causal mask": layer(
        lambda: Net(
            lambda m, x: m.core(m.a(x), mask=m.mask, is_causal=True),
            a=nn.Linear(3, 4),
            core=nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, batch_first=True), 2, enable_nested_tensor=False),
            mask=nn.Transformer.generate_square_subsequent_mask(5),
        ),
        SEQUENCES,
    ),
    "TransformerDecoderLayer": layer(decoder, SEQUENCES),
    "linear attention": layer(
        lambda: Net(
            lambda m, x: torch.einsum("ntd,nsd,nse->nte", functional.elu(m.q(x)) + 1, functional.elu(m.k(x)) + 1, m.v(x)) / 5,
            q=nn.Linear(3, 4),
            k=nn.Linear(3, 4),
            v=nn.Linear(3, 2),
        ),
        SEQUENCES,
    ),
    "kept table of positions": layer(positions, SEQUENCES),
    "Embedding": layer(lambda: nn.Sequential(nn.Embedding(7, 3), nn.Tanh(), nn.Linear(3, 2)), TOKENS),
    "Embedding, padding": layer(lambda: nn.Sequential(nn.Embedding(7, 3, padding_idx=0), nn.Tanh(), nn.Linear(3, 2)), TOKENS, held=("0.weight", 0)),
    "Embedding, max_norm": layer(lambda: nn.Sequential(nn.Embedding(7, 3, max_norm=0.5), nn.Linear(3, 2)), TOKENS, "max_norm|Embedding|writ"),
    "Embedding, sparse": layer(lambda: nn.Sequential(nn.Embedding(7, 3, sparse=True), nn.Tanh(), nn.Linear(3, 2)), TOKENS),
    "Embedding, scaled by frequency": layer(lambda: nn.Sequential(nn.Embedding(7, 3, scale_grad_by_freq=True), nn.Tanh(), nn.Linear(3, 2)), TOKENS, CURVATURE),
    "EmbeddingBag": layer(lambda: nn.Sequential(nn.EmbeddingBag(7, 3), nn.Tanh(), nn.Linear(3, 2)), TOKENS, CURVATURE, "(?i)embedding_?bag", way_out=True),
    "EmbeddingBag, max": layer(lambda: nn.Sequential(nn.EmbeddingBag(7, 3, mode="max"), nn.Tanh(), nn.Linear(3, 2)), TOKENS, CURVATURE, "(?i)embedding_?bag", way_out=True),
    "tied embedding and head": layer(lambda: Net(lambda m, x: torch.tanh(m.words(x)) @ m.words.weight.T, words=nn.Embedding(7, 3)), TOKENS),
    "bag of words": layer(lambda: Net(lambda m, x: m.b(torch.tanh(m.a(functional.one_hot(x, 7).to(m.a.weight).mean(1)))), a=nn.Linear(7, 3), b=nn.Linear(3, 2)), TOKENS),
}

PARAMETRIZATIONS: dict[str, Case] = {
    "weight_norm": layer(lambda: mlp(activation=parametrizations.weight_norm(nn.Linear(4, 4))), VECTORS, CURVATURE, way_out=True),
    "weight_norm of a convolution": layer(lambda: conv(parametrizations.weight_norm(nn.Conv2d(4, 2, 3))), IMAGES, CURVATURE, way_out=True),
    "spectral_norm, evaluation mode": layer(lambda: mlp(activation=parametrizations.spectral_norm(nn.Linear(4, 4))).eval()),
    "spectral_norm": layer(lambda: mlp(activation=parametrizations.spectral_norm(nn.Linear(4, 4))), VECTORS, WRITES),
    "weight_norm by hooks": layer(lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)), VECTORS, CURVATURE, way_out=True),
    "spectral_norm by hooks": layer(lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)), VECTORS, WRITES),
    "spectral_norm by hooks, evaluation mode": layer(lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)).eval()),
    "weight standardisation": layer(lambda: between(lambda m, h: h @ ((m.w - m.w.mean(0)) / m.w.std(0)), w=nn.Parameter(torch.eye(4)))),
    "orthogonal, exponential": layer(lambda: mlp(activation=parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map="matrix_exp"))),
    "orthogonal, Cayley": layer(lambda: mlp(activation=parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map="cayley"))),
    "orthogonal, Householder": layer(lambda: mlp(activation=parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map="householder"))),
    "positive weights": layer(lambda: mlp(activation=parametrized(nn.Linear(4, 4)))),
    "pruned": layer(lambda: nn.Sequential(untyped(prune.l1_unstructured)(nn.Linear(3, 4), "weight", 0.5), nn.Tanh(), nn.Linear(4, 2))),
    "tied weights": layer(lambda: tied()),
    "one layer three times": layer(lambda: nn.Sequential(*[nn.Linear(3, 3), nn.Tanh()] * 3)),
    "one block twice": layer(lambda: nn.Sequential(*[nn.Sequential(nn.Linear(3, 3), settled(nn.BatchNorm1d(3)), nn.Tanh())] * 2)),
    "one layer by two names": layer(lambda: two_names()),
    "frozen body": layer(lambda: nn.Sequential(mlp(4).requires_grad_(False), nn.Linear(4, 2), nn.Tanh())),
    "frozen head": layer(lambda: nn.Sequential(mlp(4), nn.Linear(4, 2).requires_grad_(False))),
    "part that is not used": layer(lambda: Net(lambda m, x: m.used(x), used=mlp(), rest=nn.Linear(2, 2))),
    "parameter without dimensions": layer(lambda: between(lambda m, h: h * m.scale.exp(), scale=nn.Parameter(torch.tensor(0.5)))),
    "ParameterList and ParameterDict": layer(
        lambda: Net(
            lambda m, x: sum(torch.tanh(x @ w) for w in m.all) @ m.by["head"],
            all=nn.ParameterList(torch.ones(3, 4) for _ in range(2)),
            by=nn.ParameterDict({"head": torch.ones(4, 2)}),
        )
    ),
    "low-rank adaptation": layer(
        lambda: between(
            lambda m, h: m.whole(h) + h @ m.down @ m.up, whole=nn.Linear(4, 4).requires_grad_(False), down=nn.Parameter(torch.ones(4, 1)), up=nn.Parameter(torch.zeros(1, 4))
        )
    ),
    "mask in a buffer": layer(lambda: between(lambda m, h: h * m.mask, mask=torch.tensor([1.0, 0.0, 1.0, 1.0]))),
    "complex parameters": layer(lambda: Net(lambda m, x: (x.to(m.w.dtype) @ m.w).abs(), w=nn.Parameter(torch.ones(3, 2, dtype=torch.cdouble))), VECTORS, "(?i)complex"),
    "DataParallel": layer(lambda: nn.DataParallel(mlp()), VECTORS, "DataParallel"),
    "traced": layer(lambda: untyped(torch.jit.trace)(mlp(), torch.ones(6, 3)), VECTORS, r"(?i)jit|script|trac"),
}

HEADS: dict[str, Case] = {
    "GLU": layer(lambda: nn.Sequential(nn.Linear(3, 6), nn.GLU(), nn.Linear(3, 2))),
    "SwiGLU": layer(lambda: between(lambda m, h: functional.silu(h) * m.gate(h), gate=nn.Linear(4, 4))),
    "Hardsigmoid": layer(lambda: mlp(activation=nn.Hardsigmoid()), VECTORS, CURVATURE, "(?i)hardsigmoid", way_out=True),
    "Bilinear": layer(lambda: Net(lambda m, x: m.b(x, torch.tanh(m.a(x))), a=nn.Linear(3, 3), b=nn.Bilinear(3, 3, 2))),
    "Maxout": layer(lambda: nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (2, 2)), nn.AdaptiveMaxPool1d(1))),
    "CosineSimilarity": layer(lambda: Net(lambda m, x: functional.cosine_similarity(m.a(x).unsqueeze(1), m.w, -1), a=nn.Linear(3, 4), w=nn.Parameter(torch.eye(2, 4)))),
    "normalize": layer(lambda: between(lambda m, h: functional.normalize(h))),
    "standard deviation": layer(lambda: between(lambda m, h: h / (h.std(0) + 1))),
    "radial basis": layer(lambda: Net(lambda m, x: m.b(torch.exp(-(x.unsqueeze(1) - m.centres).square().sum(-1))), centres=nn.Parameter(torch.eye(4, 3)), b=nn.Linear(4, 2))),
    "Fourier features": layer(lambda: between(lambda m, h: torch.cat([h.sin(), h.cos()], -1)[:, 2:6])),
    "FiLM": layer(film),
    "hypernetwork": layer(hypernetwork),
    "experts": layer(experts),
    "distances to prototypes": layer(
        lambda: Net(lambda m, x: torch.cdist(m.a(x), m.w), a=nn.Linear(3, 4), w=nn.Parameter(torch.eye(2, 4))), VECTORS, *before("2.14", CURVATURE, "cdist"), way_out=True
    ),
    "pairwise distances": layer(lambda: Net(lambda m, x: functional.pdist(m.a(x)).unsqueeze(0), a=nn.Linear(3, 4)), VECTORS, *before("2.14", CURVATURE, "pdist"), way_out=True),
    "lengths of differences": layer(lambda: Net(lambda m, x: (m.a(x).unsqueeze(1) - m.a(x)).norm(dim=-1), a=nn.Linear(3, 4)), VECTORS, "(?i)nan|finite|" + CURVATURE),
    "matrix exponential": layer(lambda: Net(lambda m, x: x @ torch.matrix_exp(m.w), w=nn.Parameter(torch.eye(3)))),
    "eigenvalues": layer(lambda: Net(lambda m, x: torch.linalg.eigh(m.a(x).T @ m.a(x))[0].unsqueeze(0), a=mlp(3)), step_size=0.01),
    "singular values": layer(lambda: Net(lambda m, x: torch.linalg.svdvals(m.a(x)).unsqueeze(0), a=mlp(3))),
    "QR": layer(lambda: Net(lambda m, x: torch.linalg.qr(m.a(x))[0], a=mlp(3)), step_size=0.01),
    "pseudoinverse": layer(lambda: between(lambda m, h: torch.linalg.pinv(h).T / 3)),
    "Sinkhorn": layer(lambda: between(lambda m, h: (h - h.logsumexp(0)) - (h - h.logsumexp(0)).logsumexp(1, keepdim=True))),
    "sorted": layer(lambda: between(lambda m, h: h.sort(dim=-1).values.cumsum(-1))),
    "running products": layer(lambda: between(lambda m, h: h.cumprod(-1) + h.logcumsumexp(-1) + h.cummax(-1)[0])),
    "median, quantile, kthvalue": layer(lambda: between(lambda m, h: torch.cat([h.median(-1)[0], h.quantile(0.3, -1), h.kthvalue(2)[0], h.amax(-1)]).reshape(4, 6).T)),
    "neural differential equation": layer(runge_kutta),
    "energy": layer(energy),
    "energy by torch.func": layer(energy_by_transform),
    "unrolled descent within": layer(lambda: unrolled()),
    "graph, index_add": layer(lambda: messages(lambda zero, end, sent: zero.index_add(0, end, sent))),
    "graph, scatter_add": layer(lambda: messages(lambda zero, end, sent: zero.scatter_add(0, along(end, sent), sent))),
    "graph, scatter_reduce mean": layer(lambda: messages(lambda zero, end, sent: zero.scatter_reduce(0, along(end, sent), sent, "mean"))),
    "graph, scatter_reduce amax": layer(lambda: messages(lambda zero, end, sent: (zero - 9).scatter_reduce(0, along(end, sent), sent, "amax"))),
    "graph, index_put": layer(lambda: messages(lambda zero, end, sent: zero.index_put((end,), sent, accumulate=True))),
    "graph, sparse matrix": layer(lambda: between(lambda m, h: torch.sparse.mm(m.adjacent.to_sparse(), h), adjacent=(torch.arange(36).reshape(6, 6) % 4 == 1).float())),
    "segment_reduce": layer(lambda: between(lambda m, h: torch.segment_reduce(h, "mean", lengths=torch.tensor([2, 3, 1]))), VECTORS, CURVATURE, "segment_reduce", way_out=True),
    "written in place": layer(lambda: between(lambda m, h: h.clone().mul_(2).add_(h).clamp_(-1.5, 1.5))),
    "output written by index": layer(lambda: between(lambda m, h: indexed(h))),
    "depends on the numbers": layer(lambda: between(lambda m, h: h * 2 if h.sum() > 0 else h**2)),
    "numbers taken out": layer(lambda: between(lambda m, h: h / (1 + len(h.tolist())))),
    "looks for NaN": layer(checked),
    "remembers its features": layer(remembering),
    "hook that records": layer(lambda: backward_hooked(lambda *_: None)),
    "forward hook": layer(lambda: forward_hooked()),
    "function with two derivatives": layer(lambda: by(Cube)),
    "function for all transforms": layer(lambda: by(CubeForAll)),
}

CHECKPOINTS: dict[str, Case] = {
    "checkpoint": layer(lambda: saved(use_reentrant=False)),
    "checkpoint, no random state": layer(lambda: saved(use_reentrant=False, preserve_rng_state=False)),
    "checkpoint, early stop": layer(lambda: saved(use_reentrant=False, early_stop=False)),
    "checkpoint_sequential": layer(
        lambda: Net(lambda m, x: untyped(checkpoint_sequential)(m.body, 2, x, use_reentrant=False), body=nn.Sequential(mlp(3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh()))
    ),
    "laid aside as it is": layer(lambda: laid_aside(lambda t: t, lambda t: t)),
    "laid aside as a copy": layer(lambda: laid_aside(lambda t: t.clone(), lambda t: t)),
    "laid aside on the CPU": layer(lambda: Net(lambda m, x: on_cpu(m.body, x), body=mlp())),
    "laid aside as numbers": layer(lambda: laid_aside(lambda t: t.detach().numpy(), torch.from_numpy)),
    "checkpoint, reentrant": layer(lambda: saved(use_reentrant=True), VECTORS, "(?i)checkpoint", "use_reentrant"),
    "checkpoint with dropout": layer(lambda: saved(lambda m, x: functional.dropout(m.body(x)), use_reentrant=False), VECTORS, DRAWS),
}

DRAWING: dict[str, Case] = {
    f"{type(drawing).__name__}": layer(partial(mlp, 2, drawing), VECTORS, DRAWS, type(drawing).__name__)
    for drawing in (nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.FeatureAlphaDropout(0.5), nn.RReLU())
} | {
    "functional.dropout": layer(lambda: between(lambda m, h: functional.dropout(h)), VECTORS, DRAWS),
    "functional.rrelu": layer(lambda: between(lambda m, h: functional.rrelu(h, training=True)), VECTORS, DRAWS),
    "Monte Carlo dropout, evaluation mode": layer(lambda: between(lambda m, h: functional.dropout(h, 0.1, training=True)).eval(), VECTORS, DRAWS),
    "noise": layer(lambda: between(lambda m, h: h + 0.1 * torch.randn_like(h)), VECTORS, DRAWS),
    "noise beside the parameters": layer(lambda: between(lambda m, h: h * (1 + m.s * torch.randn(4)), s=nn.Parameter(torch.ones(4))), VECTORS, DRAWS),
    "bernoulli": layer(lambda: between(lambda m, h: h * torch.bernoulli(h.sigmoid())), VECTORS, DRAWS),
    "permutation": layer(lambda: between(lambda m, h: h[:, torch.randperm(4)]), VECTORS, DRAWS),
    "multinomial": layer(lambda: between(lambda m, h: h.gather(1, h.softmax(-1).multinomial(4, replacement=True))), VECTORS, DRAWS),
    "Gumbel softmax": layer(lambda: between(lambda m, h: functional.gumbel_softmax(h)), VECTORS, DRAWS),
    "Gumbel softmax, hard": layer(lambda: between(lambda m, h: functional.gumbel_softmax(h, hard=True)), VECTORS, DRAWS),
    "latent variable": layer(lambda: between(lambda m, h: law.Normal(h, m.s.exp()).rsample(), s=nn.Parameter(torch.zeros(4))), VECTORS, DRAWS),
    "latent variables, correlated": layer(lambda: between(lambda m, h: law.MultivariateNormal(h, torch.eye(4).to(h)).rsample()), VECTORS, DRAWS),
    "DropPath by random": layer(lambda: drop_path(lambda: random.random() < 0.5), VECTORS, DRAWS),
    "DropPath by numpy": layer(lambda: drop_path(lambda: bool(np.random.rand() < 0.5)), VECTORS, DRAWS),
    "DropPath by torch": layer(lambda: drop_path(lambda: bool(torch.rand(()) < 0.9)), VECTORS, DRAWS),
    "private generator of torch": layer(private_torch, VECTORS, DRAWS + "|" + WRITES),
    "private generator of numpy": layer(private_numpy, VECTORS, DRAWS + "|" + WRITES),
    "private generator of random": layer(private_random, VECTORS, DRAWS + "|" + WRITES),
    "seeded anew at each call": layer(lambda: between(lambda m, h: seeded_noise(h))),
}

STATEFUL: dict[str, Case] = {
    "counts its calls": layer(Counting, VECTORS, WRITES),
    "norm by inner step, fixed": layer(lambda: StepwiseNorm(counts=False)),
    "norm by inner step, counting": layer(lambda: StepwiseNorm(counts=True), VECTORS, WRITES),
    "moving average in a buffer": layer(Centred, VECTORS, WRITES, "centre"),
    "codebook that follows": layer(Codebook, VECTORS, WRITES, "codes"),
    "weight that is kept": layer(cached_weight, VECTORS, f"{WRITES}|{OWN}"),
    "list of its parameters": layer(own_list, VECTORS, OWN),
    "input written in place": layer(lambda: Net(lambda m, x: m.body(x.mul_(0.9)), body=mlp()), VECTORS, f"{WRITES}|input"),
}

UNTRUE: dict[str, Case] = {
    "rounded": layer(lambda: by(Rounded), VECTORS, CURVATURE),
    "rounded by detach": layer(lambda: between(lambda m, h: h + ((8 * h).round() / 8 - h).detach()), VECTORS, CURVATURE),
    "rounded weights": layer(lambda: between(lambda m, h: h @ (m.w + ((4 * m.w).round() / 4 - m.w).detach()), w=nn.Parameter(torch.eye(4))), VECTORS, CURVATURE),
    "fake quantisation": layer(lambda: between(lambda m, h: torch.fake_quantize_per_tensor_affine(h.float(), 0.05, 0, -64, 63).to(h)), VECTORS, CURVATURE),
    "reversed gradient": layer(lambda: by(Reversed), VECTORS, CURVATURE),
    "function with one derivative": layer(lambda: by(CubeOnce), VECTORS, CURVATURE, way_out=True),
    "function with what it computed": layer(lambda: by(CubeOfContext), VECTORS, CURVATURE, way_out=True),
    "function by numpy": layer(lambda: by(CubeOfNumbers), VECTORS, CURVATURE, way_out=True),
    "equilibrium by a hook": layer(equilibrium, VECTORS, CURVATURE, way_out=True),
    "features without gradient": layer(lambda: Net(lambda m, x: m.b(torch.tanh(m.a(x)).detach()).tanh(), a=nn.Linear(3, 4), b=nn.Linear(4, 2)), VECTORS, CURVATURE),
    "statistics without gradient": layer(lambda: between(lambda m, h: (h - h.mean(0).detach()) / h.std(0).detach()), VECTORS, CURVATURE),
    "maximum without gradient": layer(lambda: between(lambda m, h: (h - h.amax(-1, keepdim=True).detach()).softmax(-1))),
    "hook that clips a parameter's gradient": layer(lambda: hooked(lambda g: g.clamp(-0.01, 0.01)), VECTORS, "hook"),
    "hook that masks a parameter's gradient": layer(lambda: hooked(lambda g: g * torch.eye(4, 3).to(g)), VECTORS, "hook"),
    "hook that clips a layer's gradients": layer(lambda: backward_hooked(lambda m, i, o: (i[0].clamp(-0.01, 0.01),)), VECTORS, f"hook|{CURVATURE}"),
    "no parameter used": layer(lambda: Net(lambda m, x: x, a=mlp()), VECTORS, "differentiable"),
    "outputs detached": layer(lambda: Net(lambda m, x: m.a(x).detach(), a=mlp()), VECTORS, "differentiable"),
}


def channels_last(module: Any) -> Any:
    return module.to(memory_format=torch.channels_last)


def shaped() -> nn.Module:
    module = nn.Sequential(nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))
    module(torch.ones(2, 2, 6, 6))
    return module.eval()


def untyped(function: Any) -> Any:
    """Return a function that bears no types."""
    return function


def tied() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    module[2].weight = module[0].weight
    return module


def two_names() -> Net:
    head = nn.Linear(4, 2)
    return Net(lambda m, x: m.head(torch.tanh(m.body(x))) + m.last(m.body(x)), body=nn.Linear(3, 4), head=head, last=head)


def on_cpu(body: nn.Module, x: torch.Tensor) -> Any:
    with torch.autograd.graph.save_on_cpu():
        return body(x)


def parametrized(module: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(module, "weight", Positive())


def forward_hooked() -> nn.Module:
    module = mlp()
    module[1].register_forward_hook(lambda m, inputs, output: output * 2)
    module[0].register_forward_pre_hook(lambda m, inputs: (inputs[0] + 1,))
    return module


def unrolled() -> Net:
    """Return a network that descends on an energy of its own (an energy-based model)."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        z = x.detach().requires_grad_()
        with torch.enable_grad():
            for _ in range(2):
                z = z - 0.1 * torch.autograd.grad(m.energy(z).square().sum(), z, create_graph=True)[0]
        return z

    return Net(forward, energy=mlp())


def indexed(h: torch.Tensor) -> torch.Tensor:
    outputs = torch.zeros_like(h)
    outputs[:, ::2] = h[:, ::2] ** 2
    outputs[:, 1] = h[:, 0]
    return outputs


def seeded_noise(h: torch.Tensor) -> torch.Tensor:
    source = torch.Generator().manual_seed(0)
    return h + torch.randn(h.shape, generator=source).to(h)


LAYERS = {
    f"{kind}: {name}": case
    for kind, cases in {
        "activation": ACTIVATIONS,
        "image": CONVOLUTIONS,
        "sequence": SEQUENTIAL,
        "parameters": PARAMETRIZATIONS,
        "head": HEADS,
        "checkpoint": CHECKPOINTS,
        "draws": DRAWING,
        "state": STATEFUL,
        "untrue": UNTRUE,
    }.items()
    for name, case in cases.items()
}
