"""SynBrain's published training step, written plainly: what `speed.py` compares brainenc with.

Single precision, eager, attention by two matrix products with the softmax between them, time and
adaLN computed for every example in every step, the autoencoder run for the mapper's targets in
every step, AdamW and the moving average one parameter at a time. Submodules have the names of the
official code, so the weights of `brainenc.nets` load as they are.
"""

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F


def group_norm(n):
    return nn.GroupNorm(min(32, n), n, eps=1e-6)


class ResidualBlock(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.norm1, self.conv1 = group_norm(n_in), nn.Conv1d(n_in, n_out, 3, padding=1)
        self.norm2, self.conv2 = group_norm(n_out), nn.Conv1d(n_out, n_out, 3, padding=1)
        self.nin_shortcut = nn.Identity() if n_in == n_out else nn.Conv1d(n_in, n_out, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.norm = group_norm(n)
        self.q, self.k, self.v, self.proj_out = (nn.Conv1d(n, n, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        shares = torch.bmm(self.q(h).transpose(1, 2), self.k(h)) * x.shape[1] ** -0.5
        return x + self.proj_out(torch.bmm(self.v(h), shares.softmax(2).transpose(1, 2)))


class Middle(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = (
            ResidualBlock(n, n),
            Attention(n),
            ResidualBlock(n, n),
        )

    def forward(self, x):
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    def __init__(self, n_in, n_out, n_blocks, name=None, conv=None):
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(n_out if i else n_in, n_out) for i in range(n_blocks)
        )
        self.name = name
        if name is not None:
            holder = nn.Module()
            holder.add_module("conv" if name == "downsample" else "trans_conv", conv)
            self.add_module(name, holder)

    def forward(self, x):
        for block in self.block:
            x = block(x)
        if self.name is not None:
            x = next(getattr(self, self.name).children())(x)
        return x


class Encoder(nn.Module):
    def __init__(self, pooled_length, n_out, n_channels, levels, n_blocks):
        super().__init__()
        self.conv_in = nn.Conv1d(1, n_channels, 7, padding=3)
        self.pool = nn.AdaptiveMaxPool1d(pooled_length)
        halve = nn.Conv1d(levels[0], levels[0], 7, stride=2, padding=3)
        first = Level(n_channels, levels[0], n_blocks, "downsample", halve)
        rest = (Level(a, b, n_blocks) for a, b in pairwise(levels))
        self.down = nn.ModuleList([first, *rest])
        self.mid, self.norm_out = Middle(levels[-1]), group_norm(levels[-1])
        self.conv_out = nn.Conv1d(levels[-1], n_out, 7, padding=3)

    def forward(self, betas):
        x = self.pool(self.conv_in(betas[:, None]))
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, n_in, levels, n_blocks):
        super().__init__()
        last = levels[-1]
        self.conv_in, self.mid = nn.Conv1d(n_in, last, 7, padding=3), Middle(last)
        double = nn.ConvTranspose1d(last, last, 7, stride=2, padding=3, output_padding=1)
        rest = [Level(b, a, n_blocks) for a, b in pairwise(levels)]
        self.up = nn.ModuleList([*rest, Level(last, last, n_blocks, "upsample", double)])
        self.norm_out = group_norm(levels[0])
        self.conv_out = nn.Conv1d(levels[0], 1, 7, padding=3)

    def forward(self, x, n_voxels):
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        x = F.interpolate(x, size=n_voxels, mode="linear", align_corners=True)
        return self.conv_out(F.silu(self.norm_out(x)))[:, 0]


def projector(n_in, width, n_out):
    sizes = [(n_in, width), (width, width), (width, n_out)]
    layers = ((nn.LayerNorm(a), nn.GELU(), nn.Linear(a, b)) for a, b in sizes)
    return nn.Sequential(*(layer for triple in layers for layer in triple))


class VAE(nn.Module):
    """Takes the `sizes` of a `brainenc.nets.BrainVAE` whose first level halves the length."""

    def __init__(self, sizes):
        super().__init__()
        pooled, n_tokens, width = (sizes[k] for k in ("pooled_length", "n_tokens", "token_width"))
        levels = [sizes["n_channels"] * m for m in sizes["channel_multipliers"]]
        n_blocks, hidden = sizes["n_blocks"], sizes["projector_width"]
        self.encoder = Encoder(pooled, n_tokens, sizes["n_channels"], levels, n_blocks)
        self.decoder = Decoder(n_tokens, levels, n_blocks + 1)
        self.pre_projector_mean = projector(pooled // 2, hidden, width)
        self.pre_projector_logvar = projector(pooled // 2, hidden, width)
        self.post_projector = projector(width, hidden, pooled // 2)

    def encode(self, betas):
        h = self.encoder(betas)
        return self.pre_projector_mean(h), self.pre_projector_logvar(h)

    def decode(self, z, n_voxels):
        return self.decoder(self.post_projector(z), n_voxels)


def soft_clip(z, tokens, temperature=0.125):
    z, tokens = F.normalize(z.flatten(1), dim=1), F.normalize(tokens.flatten(1), dim=1)
    labels = (tokens @ tokens.T / temperature).softmax(-1)
    logits = z @ tokens.T / temperature
    rows = -(logits.log_softmax(-1) * labels).sum(-1).mean()
    return (rows - (logits.T.log_softmax(-1) * labels).sum(-1).mean()) / 2


def vae_loss(vae, betas, tokens, noise):
    mean, log_variance = vae.encode(betas)
    z = mean + torch.exp(0.5 * log_variance) * noise
    error = ((vae.decode(z, betas.shape[1]) - betas) ** 2).sum() / len(betas)
    kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum() / len(betas)
    return error + 0.001 * kl + 1000 * soft_clip(z, tokens)


class Block(nn.Module):
    def __init__(self, width, n_heads, hidden):
        super().__init__()
        self.n_heads = n_heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def attend(self, x):
        batch, n_tokens, width = x.shape
        qkv = self.attn.qkv(x).reshape(batch, n_tokens, 3, self.n_heads, width // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).flatten(1, 2)
        shares = torch.bmm(q * q.shape[-1] ** -0.5, k.transpose(1, 2)).softmax(-1)
        heads = torch.bmm(shares, v).reshape(batch, self.n_heads, n_tokens, -1)
        return self.attn.proj(heads.transpose(1, 2).flatten(2))

    def forward(self, x, condition):
        parts = [part[:, None] for part in self.adaLN_modulation(condition).chunk(6, 1)]
        h = self.norm1(x) * (1 + parts[1]) + parts[0]
        x = x + parts[2] * self.attend(h)
        h = self.mlp.fc1(self.norm2(x) * (1 + parts[4]) + parts[3])
        return x + parts[5] * self.mlp.fc2(F.gelu(h, approximate="tanh"))


class Mapper(nn.Module):
    """Takes the `sizes` of a `brainenc.nets.S2N`."""

    def __init__(self, sizes):
        super().__init__()
        n_tokens, width = sizes["n_tokens"], sizes["width"]
        self.n_time = sizes["n_time_features"]
        self.pos_embed = nn.Parameter(torch.zeros(1, n_tokens, width), requires_grad=False)
        self.t_embedder, self.final_layer = nn.Module(), nn.Module()
        layers = nn.Linear(self.n_time, width), nn.SiLU(), nn.Linear(width, width)
        self.t_embedder.mlp = nn.Sequential(*layers)
        hidden = round(width * sizes["mlp_ratio"])
        blocks = (Block(width, sizes["n_heads"], hidden) for _ in range(sizes["depth"]))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.final_layer.linear = nn.Linear(width, width)
        self.final_layer.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, tokens):
        time = torch.zeros(len(tokens), 1, device=tokens.device)
        steps = torch.arange(self.n_time // 2, device=tokens.device) / (self.n_time // 2)
        angles = time * 10_000**-steps
        condition = self.t_embedder.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))
        x = tokens + self.pos_embed
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.final_layer.adaLN_modulation(condition).chunk(2, 1)
        return self.final_layer.linear(self.norm(x) * (1 + scale[:, None]) + shift[:, None])


class VAEStep:
    """One step of stage 1 after another: ``step(betas, tokens)`` gives the loss."""

    def __init__(self, vae, seed=0):
        self.vae = vae
        self.optimizer = torch.optim.AdamW(
            vae.parameters(), lr=1e-4, weight_decay=0.05, foreach=False
        )
        device = next(vae.parameters()).device
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, betas, tokens):
        noise = torch.randn(tokens.shape, generator=self.generator, device=tokens.device)
        loss = vae_loss(self.vae, betas, tokens, noise)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


class MapperStep:
    """One step of stage 2 after another."""

    def __init__(self, mapper, vae):
        self.mapper, self.vae, self.ema = mapper, vae.eval(), copy.deepcopy(mapper)
        trained = [p for p in mapper.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, foreach=False)

    def __call__(self, betas, tokens):
        with torch.no_grad():
            target, _ = self.vae.encode(betas)
        loss = F.mse_loss(self.mapper(tokens), target)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.mapper.parameters(), 1.0, foreach=False)
        self.optimizer.step()
        with torch.no_grad():
            for average, now in zip(self.ema.parameters(), self.mapper.parameters(), strict=True):
                average.mul_(0.9999).add_(now, alpha=1 - 0.9999)
        return loss.item()
