"""Losses, by what they are called."""

from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.support.field.case import (
    TOKENS,
    VECTORS,
    Case,
    Loss,
    Net,
    before,
    classes,
    law,
    loss,
    mlp,
    normal,
    penalty,
    positive,
    shares,
    signs,
    whole,
)
from tests.support.field.layers import CURVATURE, DRAWS, OWN, WRITES
from tests.support.field.parts import hub_model

mse = functional.mse_loss
REALS, LABELS, BINARY = normal(6, 2), classes(0, 1, 2, 2, 1, 0), whole(2, 6, 2)


def some_labels(source: torch.Generator) -> Tensor:
    return torch.tensor([[0, 2, -1], [1, -1, 0]] * 3)


FUNCTIONAL: dict[str, Case] = {
    "mse_loss": loss(functional.mse_loss, REALS),
    "mse_loss, sum": loss(lambda o, t: functional.mse_loss(o, t, reduction="sum"), REALS, step_size=0.02),
    "mse_loss, weighted": loss(lambda o, t: mse(o, t, reduction="none").mul(t.exp()).mean(), REALS),
    "l1_loss": loss(functional.l1_loss, REALS),
    "smooth_l1_loss": loss(lambda o, t: functional.smooth_l1_loss(o, t, beta=2.0), REALS),
    "huber_loss": loss(lambda o, t: functional.huber_loss(o, t, delta=0.5), REALS),
    "cross_entropy": loss(functional.cross_entropy, LABELS, 3),
    "cross_entropy, weights": loss(lambda o, t: functional.cross_entropy(o, t, torch.arange(1, 4).to(o)), LABELS, 3),
    "cross_entropy, label smoothing": loss(lambda o, t: functional.cross_entropy(o, t, label_smoothing=0.2), LABELS, 3),
    "cross_entropy, ignore_index": loss(functional.cross_entropy, classes(0, 1, -100, 2, -100, 0), 3),
    "cross_entropy, all of it": loss(lambda o, t: functional.cross_entropy(o, t, torch.arange(1, 4).to(o), ignore_index=1, label_smoothing=0.2), LABELS, 3),
    "cross_entropy, soft targets": loss(functional.cross_entropy, shares(6, 3), 3),
    "cross_entropy of sequences": loss(lambda o, t: functional.cross_entropy(o.reshape(6, 3, 2), t), whole(3, 6, 2), 6),
    "nll_loss": loss(lambda o, t: functional.nll_loss(o.log_softmax(-1), t), LABELS, 3),
    "nll_loss of images": loss(lambda o, t: functional.nll_loss(o.reshape(6, 3, 1, 2).log_softmax(1), t), whole(3, 6, 1, 2), 6),
    "binary_cross_entropy": loss(lambda o, t: functional.binary_cross_entropy(o.sigmoid(), t.to(o)), BINARY),
    "binary_cross_entropy_with_logits": loss(lambda o, t: functional.binary_cross_entropy_with_logits(o, t.to(o), pos_weight=torch.tensor(3.0).to(o)), BINARY),
    "kl_div": loss(lambda o, t: functional.kl_div(o.log_softmax(-1), t, reduction="batchmean"), shares(6, 3), 3),
    "kl_div, log targets": loss(lambda o, t: functional.kl_div(o.log_softmax(-1), t.log(), log_target=True), shares(6, 3), 3),
    "kl_div of two outputs": loss(lambda o, t: functional.kl_div(o[:, :3].log_softmax(-1), o[:, 3:].log_softmax(-1), log_target=True), REALS, 6),
    "poisson_nll_loss": loss(lambda o, t: functional.poisson_nll_loss(o, t.to(o), full=True), whole(5, 6, 2), step_size=0.02),
    "gaussian_nll_loss": loss(lambda o, t: functional.gaussian_nll_loss(o[:, :1], t, o[:, 1:].exp()), normal(6, 1)),
    "hinge_embedding_loss": loss(functional.hinge_embedding_loss, signs(6, 2)),
    "margin_ranking_loss": loss(lambda o, t: functional.margin_ranking_loss(o[:, 0].tanh(), o[:, 1], t, margin=2.0), signs(6)),
    "soft_margin_loss": loss(functional.soft_margin_loss, signs(6, 2)),
    "multi_margin_loss": loss(functional.multi_margin_loss, LABELS, 3, CURVATURE, "multi_?margin", way_out=True),
    "multilabel_margin_loss": loss(functional.multilabel_margin_loss, some_labels, 3, CURVATURE, "multilabel_?margin", way_out=True),
    "multilabel_soft_margin_loss": loss(functional.multilabel_soft_margin_loss, BINARY),
    "triplet_margin_loss": loss(lambda o, t: functional.triplet_margin_loss(o[:, :2], o[:, 2:4], o[:, 4:], margin=2.0, swap=True), REALS, 6),
    "triplet_margin_with_distance_loss": loss(
        lambda o, t: functional.triplet_margin_with_distance_loss(o[:, :2], o[:, 2:4], o[:, 4:], margin=9.0, distance_function=lambda a, b: (a - b).square().sum(-1)), REALS, 6
    ),
    "cosine_embedding_loss": loss(lambda o, t: functional.cosine_embedding_loss(o[:, :2], o[:, 2:], t), signs(6), 4),
    "ctc_loss": loss(
        lambda o, t: functional.ctc_loss(o.reshape(6, 4, 3).log_softmax(-1).transpose(0, 1), t, torch.full((6,), 4), torch.ones(6).long()),
        classes(1, 2, 1, 2, 1, 2),
        12,
        CURVATURE,
        "ctc",
        way_out=True,
    ),
    "criterion module": loss(nn.CrossEntropyLoss(label_smoothing=0.1), LABELS, 3),
}

CLASSIFYING: dict[str, Case] = {
    "focal": loss(lambda o, t: focal(o, t), LABELS, 3),
    "focal, weight without gradient": loss(lambda o, t: focal(o, t, detach=True), LABELS, 3, CURVATURE),
    "dice": loss(lambda o, t: 1 - 2 * (o.sigmoid() * t).sum() / (o.sigmoid().sum() + t.sum() + 1), BINARY),
    "Lovasz": loss(lambda o, t: lovasz(o, t), BINARY),
    "label smoothing by hand": loss(lambda o, t: -(0.9 * o.log_softmax(-1).gather(1, t[:, None]) + 0.1 * o.log_softmax(-1)).mean(), LABELS, 3),
    "one-hot targets": loss(lambda o, t: functional.mse_loss(o.softmax(-1), functional.one_hot(t, 3).to(o)), LABELS, 3),
    "entropy": loss(lambda o, t: -(o.softmax(-1) * o.log_softmax(-1)).sum(-1).mean(), LABELS, 3),
    "mutual information": loss(lambda o, t: law.Categorical(logits=o).entropy().mean() - law.Categorical(probs=o.softmax(-1).mean(0)).entropy(), LABELS, 3),
    "pseudo-labels": loss(lambda o, t: functional.cross_entropy(o, o.argmax(-1)), LABELS, 3),
    "soft pseudo-labels": loss(lambda o, t: functional.cross_entropy(o, (2 * o).softmax(-1).detach()), LABELS, 3, CURVATURE),
    "hardest examples": loss(lambda o, t: functional.cross_entropy(o, t, reduction="none").topk(3)[0].mean(), LABELS, 3),
    "confident examples": loss(lambda o, t: functional.cross_entropy(o[o.amax(-1) > o.mean()], t[o.amax(-1) > o.mean()]), LABELS, 3),
    "large margin cosine": loss(lambda o, t: functional.cross_entropy(5 * (functional.normalize(o) - 0.2 * functional.one_hot(t, 3)), t), LABELS, 3),
    "angular margin": loss(lambda o, t: functional.cross_entropy(5 * torch.cos(torch.acos(0.99 * functional.normalize(o)) + 0.2 * functional.one_hot(t, 3)), t), LABELS, 3),
    "pinball": loss(lambda o, t: torch.maximum(0.9 * (t - o), -0.1 * (t - o)).mean(), REALS),
    "log-cosh": loss(lambda o, t: (o - t).cosh().log().mean(), REALS),
    "root of mean square": loss(lambda o, t: functional.mse_loss(o, t).sqrt(), REALS),
    "Student's t": loss(lambda o, t: -law.StudentT(3.0, o[:, :1], o[:, 1:].exp()).log_prob(t).mean(), normal(6, 1)),
    "mixture density": loss(lambda o, t: -(o[:, :2].log_softmax(-1) + law.Normal(o[:, 2:4], o[:, 4:].exp()).log_prob(t)).logsumexp(-1).mean(), normal(6, 1), 6),
    "evidential": loss(lambda o, t: (torch.lgamma(o.exp().sum(-1)) - torch.lgamma(o.exp()).sum(-1) + torch.digamma(o.exp()).mean(-1)).mean(), LABELS, 3, step_size=0.02),
    "variational bound": loss(lambda o, t: functional.mse_loss(o[:, :2], t) + 0.1 * (o[:, 2:].exp() + o[:, :2] ** 2 - o[:, 2:]).mean(), REALS, 4),
}

CONTRASTING: dict[str, Case] = {
    "InfoNCE": loss(lambda o, t: functional.cross_entropy(functional.normalize(o[:, :2]) @ functional.normalize(o[:, 2:]).T / 0.5, torch.arange(6)), REALS, 4),
    "NT-Xent, diagonal masked": loss(
        lambda o, t: functional.cross_entropy((functional.normalize(o) @ functional.normalize(o).T / 0.5).masked_fill(torch.eye(6).bool(), -torch.inf), torch.arange(6) ^ 1), REALS
    ),
    "supervised contrast": loss(lambda o, t: supervised_contrast(o, t), LABELS, 4),
    "self-distillation, stopped": loss(lambda o, t: -functional.cosine_similarity(o[:, :2], o[:, 2:].detach()).mean(), REALS, 4, CURVATURE),
    "Barlow twins": loss(lambda o, t: (standard(o[:, :2]).T @ standard(o[:, 2:]) / 6 - torch.eye(2).to(o)).square().sum(), REALS, 4, step_size=0.02),
    "VICReg": loss(lambda o, t: functional.relu(1 - (o.var(0) + 1e-4).sqrt()).mean() + torch.cov(o.T).triu(1).square().sum() + functional.mse_loss(o, t), REALS),
    "prototypes": loss(lambda o, t: prototypes(o, t, squared), LABELS, 4),
    "prototypes, cdist": loss(lambda o, t: prototypes(o, t, torch.cdist), LABELS, 4, *before("2.14", CURVATURE, "cdist"), way_out=True),
    "prototypes, cosine": loss(lambda o, t: prototypes(o, t, lambda a, b: -functional.cosine_similarity(a[:, None], b, -1)), LABELS, 4),
    "prototypes, Mahalanobis": loss(lambda o, t: prototypes(o, t, mahalanobis), LABELS, 4),
    "matching": loss(lambda o, t: functional.nll_loss(((o[3:] @ o[:3].T).softmax(-1) @ functional.one_hot(t[:3], 3).to(o)).log(), t[3:]), LABELS, 4),
    "center loss": loss(lambda o, t: (o - (functional.one_hot(t, 3).to(o).T @ o / 2)[t]).square().mean(), LABELS, 4),
    "ridge head": loss(lambda o, t: functional.mse_loss(ridge(o, t), t), REALS, 4),
    "ridge head, Woodbury": loss(lambda o, t: functional.mse_loss(o @ o.T @ torch.linalg.solve(o @ o.T + torch.eye(6).to(o), t), t), REALS, 4),
    "ridge head, inverse": loss(lambda o, t: functional.mse_loss(o @ torch.inverse(o.T @ o + torch.eye(4).to(o)) @ o.T @ t, t), REALS, 4),
    "ridge head, Cholesky": loss(lambda o, t: functional.mse_loss(o @ torch.cholesky_solve(o.T @ t, torch.linalg.cholesky(o.T @ o + torch.eye(4).to(o))), t), REALS, 4),
    "least squares head": loss(lambda o, t: functional.mse_loss(o @ torch.linalg.lstsq(o, t)[0], t), REALS, 3, step_size=0.02),
    "logistic head, Newton": loss(lambda o, t: newton(o, t), whole(2, 6), 2),
    "support vector head": loss(lambda o, t: support_vectors(o, t), signs(6), 4),
    "Gaussian process, Cholesky": loss(lambda o, t: gaussian_process(o, t, "cholesky"), normal(6), 2),
    "Gaussian process, logdet": loss(lambda o, t: gaussian_process(o, t, "logdet"), normal(6), 2),
    "Gaussian process, slogdet": loss(lambda o, t: gaussian_process(o, t, "slogdet"), normal(6), 2),
    "Gaussian process, distribution": loss(lambda o, t: -law.MultivariateNormal(torch.zeros(6).to(o), kernel(o)).log_prob(t) / 6, normal(6), 2),
    "maximum mean discrepancy": loss(lambda o, t: kernel(o).mean() + kernel(t).mean() - 2 * rbf(o, t).mean(), REALS),
    "energy distance": loss(lambda o, t: 2 * (squared(o, t) + 1e-3).sqrt().mean() - (squared(o, o) + 1e-3).sqrt().mean(), REALS),
    "Wasserstein by sorting": loss(lambda o, t: (o.sort(0)[0] - t.sort(0)[0]).square().mean(), REALS),
    "Sinkhorn divergence": loss(lambda o, t: sinkhorn(o, t), REALS),
    "correlation alignment": loss(lambda o, t: (torch.cov(o.T) - torch.cov(t.T)).square().mean(), REALS),
    "correlation": loss(lambda o, t: 1 - torch.corrcoef(torch.stack([o[:, 0], t]))[0, 1], normal(6), 1),
    "soft dynamic time warping": loss(lambda o, t: soft_dtw(squared(o[:3], t[:3])), REALS),
    "list ranking": loss(lambda o, t: (o[t.argsort(0, True)].flip(0).logcumsumexp(0) - o[t.argsort(0, True)].flip(0)).mean(), normal(6), 1),
    "pair ranking": loss(lambda o, t: functional.softplus(-(o - o.T)[t[:, None] > t]).mean(), normal(6), 1),
    "discounted gain": loss(lambda o, t: -(t / (1 + torch.sigmoid((o.T - o) / 0.5).sum(-1)).log2()).mean(), positive(6), 1),
}

REACHING: dict[str, Case] = {
    "weight decay": penalty(lambda m: lambda o, t: mse(o, t) + 0.1 * squares(m.parameters())),
    "weight decay of weights": penalty(lambda m: lambda o, t: mse(o, t) + 0.1 * squares(p for name, p in m.named_parameters() if "weight" in name)),
    "weight decay of one layer": penalty(lambda m: lambda o, t: mse(o, t) + 0.1 * squares(m[2].parameters())),
    "weight decay, head held": penalty(lambda m: (lambda head: lambda o, t: mse(o, t) + 0.1 * head.weight.square().sum())(m[2])),
    "lasso": penalty(lambda m: lambda o, t: mse(o, t) + 0.1 * sum(p.abs().sum() for p in m.parameters())),
    "elastic weight consolidation": penalty(lambda m: consolidated(m)),
    "orthogonality": penalty(lambda m: lambda o, t: mse(o, t) + 0.1 * (m[0].weight.T @ m[0].weight - torch.eye(3).to(o)).square().sum()),
    "spectral penalty": penalty(lambda m: lambda o, t: mse(o, t) + 0.1 * torch.linalg.matrix_norm(m[2].weight, 2)),
    "nuclear norm": penalty(lambda m: lambda o, t: mse(o, t) + 0.1 * torch.linalg.matrix_norm(m[2].weight, "nuc")),
    "vector of parameters": penalty(lambda m: lambda o, t: mse(o, t) + 0.1 * nn.utils.parameters_to_vector(m.parameters()).norm()),
    "state of the module": penalty(lambda m: lambda o, t: mse(o, t) + 0.1 * squares(m.state_dict(keep_vars=True).values())),
    "criterion module that holds the model": penalty(lambda m: Penalised(m)),
    "criterion that calls the model": penalty(lambda m: lambda o, t: mse(o, t) + 0.1 * mse(m(torch.ones(6, 3).to(o)), t)),
    "virtual adversary": penalty(lambda m: lambda o, t: mse(o, t) + adversarial(m, t)),
    "features that the model remembers": penalty(lambda m: remembered(m)),
    "list made before": penalty(lambda m: (lambda kept: lambda o, t: mse(o, t) + 0.1 * squares(kept))(list(m.parameters())), OWN),
    "weight taken before": penalty(lambda m: (lambda kept: lambda o, t: mse(o, t) + 0.1 * kept.square().sum())(m[0].weight), OWN),
    "iterator made before": penalty(lambda m: (lambda kept: lambda o, t: mse(o, t) + 0.1 * squares(kept))(m.parameters()), f"{OWN}|{WRITES}"),
    "parameters of the last call": penalty(lambda m: trailing(m), f"{OWN}|{WRITES}"),
    "teacher": penalty(lambda m: distilled(mlp().to(torch.get_default_dtype()))),
    "temperature that is learnt elsewhere": penalty(lambda m: (lambda scale: lambda o, t: mse(o * scale.to(o), t))(torch.tensor(2.0, requires_grad=True))),
    "learnt loss": penalty(lambda m: (lambda net: lambda o, t: net(torch.cat([o, t], 1)[:, :3]).square().mean())(mlp(1).to(m[0].weight.dtype))),
    "dataclass output": Case(hub_model, VECTORS, LABELS, lambda _: lambda o, t: functional.cross_entropy(torch.cat([o.logits, o.hidden[0][:, :1]], 1), t)),
    "tuple output": Case(lambda: Net(lambda m, x: (m.a(x), m.a(x).tanh()), a=mlp()), VECTORS, REALS, lambda _: lambda o, t: mse(o[0] + o[1], t)),
    "dictionary output": Case(lambda: Net(lambda m, x: {"logits": m.a(x)}, a=mlp()), VECTORS, REALS, lambda _: lambda o, t: mse(o["logits"], t)),
    "loss of the model's own": Case(
        lambda: Net(lambda m, x: {"logits": m.a(x), "aux": sum(p.square().sum() for p in m.parameters())}, a=mlp()),
        VECTORS,
        REALS,
        lambda _: lambda o, t: mse(o["logits"], t) + 0.1 * o["aux"],
    ),
    "next token": Case(
        lambda: nn.Sequential(nn.Embedding(7, 3), nn.Tanh(), nn.Linear(3, 7)),
        TOKENS,
        TOKENS,
        lambda _: lambda o, t: functional.cross_entropy(o[:, :-1].flatten(0, 1), t[:, 1:].flatten()),
    ),
    "adaptive softmax": Case(
        lambda: Net(lambda m, x: (m, m.a(x)), a=mlp(4), out=nn.AdaptiveLogSoftmaxWithLoss(4, 3, [1, 2])), VECTORS, LABELS, lambda _: lambda o, t: o[0].out(o[1], t).loss
    ),
}

UNSTEADY: dict[str, Case] = {
    "label noise": loss(lambda o, t: mse(o, t + 0.1 * torch.randn_like(t)), REALS, 2, DRAWS),
    "mixup": loss(lambda o, t: mse(o, t + 0.3 * (t[torch.randperm(6)] - t)), REALS, 2, DRAWS),
    "mixup by a distribution": loss(lambda o, t: mse(o, t * law.Beta(1.0, 1.0).sample().to(t)), REALS, 2, DRAWS),
    "random projections": loss(lambda o, t: ((o @ torch.randn(2, 3).to(o)).sort(0)[0] - (t @ torch.randn(2, 3).to(o)).sort(0)[0]).square().mean(), REALS, 2, DRAWS),
    "policy gradient, sampled": loss(lambda o, t: -(law.Categorical(logits=o).log_prob(law.Categorical(logits=o).sample()) * t[:, 0]).mean(), REALS, 2, DRAWS),
    "negatives drawn": loss(lambda o, t: functional.softplus(o[torch.randint(6, (6,))] - o).mean(), REALS, 2, DRAWS),
    "annealed by calls": penalty(lambda m: (lambda calls: lambda o, t: mse(o, t) * (1 - 0.5 ** next(calls)))(count(1)), WRITES),
    "moving average within": penalty(lambda m: normalised_by_average(), WRITES),
    "teacher that follows": penalty(lambda m: following(m), f"{WRITES}|{OWN}"),
    "targets written in place": loss(lambda o, t: mse(o, t.mul_(0.9)), REALS, 2, f"{WRITES}|target"),
    "not a scalar": loss(lambda o, t: functional.mse_loss(o, t, reduction="none"), REALS, 2, "scalar"),
    "a number": loss(lambda o, t: mse(o, t).item(), REALS, 2, "tensor"),
    "no gradient": loss(lambda o, t: mse(o.detach(), t), REALS, 2, "differentiable"),
    "accuracy": loss(lambda o, t: (o.argmax(-1) == t).double().mean(), LABELS, 3, "differentiable"),
}


def squares(parameters: Iterable[Any]) -> Any:
    return sum(p.square().sum() for p in parameters)


def focal(o: Tensor, t: Tensor, *, detach: bool = False) -> Tensor:
    losses = functional.cross_entropy(o, t, reduction="none")
    weight = (1 - (-losses).exp()) ** 2
    return ((weight.detach() if detach else weight) * losses).mean()


def lovasz(o: Tensor, t: Tensor) -> Tensor:
    errors, order = (1 - o * (2.0 * t - 1)).flatten().sort(descending=True)
    truth = t.flatten()[order].to(o)
    left = truth.sum() - truth.cumsum(0)
    jaccard = 1 - left / (truth.sum() + (1 - truth).cumsum(0))
    return functional.elu(errors) @ jaccard.diff(prepend=jaccard.new_zeros(1))


def supervised_contrast(o: Tensor, t: Tensor) -> Tensor:
    other = ~torch.eye(6).bool()
    similar = functional.normalize(o) @ functional.normalize(o).T / 0.5
    logs = similar - similar.masked_fill(~other, -torch.inf).logsumexp(-1, keepdim=True)
    return -(logs * ((t[:, None] == t) & other)).sum(-1).mean()


def standard(o: Tensor) -> Tensor:
    return (o - o.mean(0)) / o.std(0)


def squared(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None] - b).square().sum(-1)


def mahalanobis(a: Tensor, b: Tensor) -> Tensor:
    differences = a[:, None] - b
    precision = torch.linalg.inv(torch.cov(a.T) + torch.eye(4).to(a))
    return torch.einsum("abi,ij,abj->ab", differences, precision, differences)


def prototypes(o: Tensor, t: Tensor, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the loss of a prototypical network; the first half of a batch makes the prototypes."""
    places = functional.one_hot(t[:3], 3).to(o)
    return functional.cross_entropy(-distance(o[3:], places.T @ o[:3]), t[3:])


def ridge(o: Tensor, t: Tensor) -> Any:
    return o @ torch.linalg.solve(o.T @ o + torch.eye(4).to(o), o.T @ t)


def newton(o: Tensor, t: Tensor) -> Tensor:
    weights = o.new_zeros(2)
    for _ in range(3):
        share = torch.sigmoid(o @ weights)
        slope = o.T @ (share - t) + weights
        curvature = o.T @ ((share * (1 - share))[:, None] * o) + torch.eye(2).to(o)
        weights = weights - torch.linalg.solve(curvature, slope)
    return functional.binary_cross_entropy_with_logits(o @ weights, t.to(o))


def support_vectors(o: Tensor, t: Tensor) -> Tensor:
    """Descend on the dual within its box, and return the hinge loss."""
    gram, dual = (o @ o.T) * t[:, None] * t, torch.full_like(t, 0.05)
    for _ in range(5):
        dual = (dual + 0.1 * (1 - gram @ dual)).clamp(0.0, 0.3)
    return functional.softplus(1 - gram @ dual).mean()


def rbf(a: Tensor, b: Tensor) -> Tensor:
    return (-squared(a, b) / 2).exp()


def kernel(o: Tensor) -> Tensor:
    return rbf(o, o) + 0.2 * torch.eye(6).to(o)


def gaussian_process(o: Tensor, t: Tensor, how: str) -> Any:
    covariance = kernel(o)
    if how == "cholesky":
        factor = torch.linalg.cholesky(covariance)
        white = torch.linalg.solve_triangular(factor, t[:, None], upper=False)
        return white.square().sum() / 12 + factor.diagonal().log().sum() / 6
    fit = t @ torch.linalg.solve(covariance, t) / 12
    if how == "logdet":
        return fit + torch.logdet(covariance) / 12
    return fit + torch.linalg.slogdet(covariance)[1] / 12


def sinkhorn(o: Tensor, t: Tensor) -> Tensor:
    cost, potential = squared(o, t), o.new_zeros(6)
    for _ in range(5):
        other = -((potential[:, None] - cost) / 0.5).logsumexp(0) * 0.5
        potential = -((other - cost) / 0.5).logsumexp(1) * 0.5
    return (((potential[:, None] + other - cost) / 0.5).exp() * cost).sum() / 6


def soft_dtw(cost: Tensor) -> Tensor:
    rows: dict[tuple[int, int], Tensor] = {}
    for i in range(3):
        for j in range(3):
            before = [rows[k] for k in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if k in rows]
            best = -torch.stack(before).neg().logsumexp(0) if before else cost.new_zeros(())
            rows[i, j] = cost[i, j] + best
    return rows[2, 2]


def consolidated(module: nn.Module) -> Loss:
    """Return a loss that holds to where the module was, by importance (EWC)."""
    anchors = {name: 0.5 * p.detach().clone() for name, p in module.named_parameters()}

    def criterion(o: Any, t: Tensor) -> Tensor:
        moved = ((name, p - anchors[name]) for name, p in module.named_parameters())
        return mse(o, t) + sum((move**2 * anchors[name].abs()).sum() for name, move in moved)

    return criterion


class Penalised(nn.Module):
    """A criterion that has the model as a part."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, o: Tensor, t: Tensor) -> Any:
        return mse(o, t) + 0.1 * squares(self.model.parameters())


def adversarial(module: nn.Module, t: Tensor) -> Any:
    """Return the loss where a gradient by the inputs leads, which is taken within the loss."""
    inputs = torch.ones(6, 3).to(t).requires_grad_()
    with torch.enable_grad():
        worse = torch.autograd.grad(mse(module(inputs), t), inputs, create_graph=True)[0]
    return 0.1 * mse(module(inputs + 0.5 * worse), t)


def remembered(module: Any) -> Loss:
    """Return a loss on hidden units, which a hook on the module lays aside."""
    seen: dict[str, Tensor] = {}
    module[1].register_forward_hook(lambda m, inputs, output: seen.update(hidden=output))
    return lambda o, t: mse(o, t) + 0.1 * seen["hidden"].square().sum()


def trailing(module: nn.Module) -> Loss:
    """Return a loss that holds to the parameters of its last call."""
    last: list[Tensor] = []

    def criterion(o: Any, t: Tensor) -> Tensor:
        now = list(module.parameters())
        value = mse(o, t) + sum((p - q).square().sum() for p, q in zip(now, last or now, strict=True))
        last[:] = now
        return value

    return criterion


def distilled(teacher: nn.Module) -> Loss:
    """Return a loss towards a teacher that was made before."""
    places = torch.randn(6, 3, generator=torch.Generator().manual_seed(5))

    def criterion(o: Any, t: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = teacher(places).to(o)
        return mse(o, wanted) + mse(o, t)

    return criterion


def normalised_by_average() -> Loss:
    """Return a loss that is divided by its own moving average."""
    average = [1.0]

    def criterion(o: Any, t: Tensor) -> Tensor:
        value = mse(o, t)
        average[0] = 0.9 * average[0] + 0.1 * float(value.detach())
        return value / average[0]

    return criterion


def following(module: nn.Module) -> Loss:
    """Return a loss towards a teacher that follows the model (mean teacher)."""
    mean = [p.detach().clone() for p in module.parameters()]

    def criterion(o: Any, t: Tensor) -> Tensor:
        with torch.no_grad():
            for value, p in zip(mean, module.parameters(), strict=True):
                value.lerp_(p, 0.1)
        pairs = zip(mean, module.parameters(), strict=True)
        return mse(o, t) + 0.1 * sum((p - value).square().sum() for value, p in pairs)

    return criterion


LOSSES = {
    f"{kind}: {name}": case
    for kind, cases in {"functional": FUNCTIONAL, "loss": CLASSIFYING, "embedding": CONTRASTING, "reaching": REACHING, "unsteady": UNSTEADY}.items()
    for name, case in cases.items()
}
