"""Does the text decoder use z? Log-likelihood of held-out texts with their own z and with another text's.

    python benchmarks/text_latent.py reports.csv --columns findings impression
    python benchmarks/text_latent.py folder_of_txt_files --set word_dropout=0.4 --set max_tokens=64

Trains one text modality alone as a variational autoencoder and prints, for held-out texts, nats per token under the
mean of their own posterior and of another text's, the paired difference with a 95 % interval, how many words greedy
reconstructions share with the text (F1 over distinct tokens), and some of them.
"""

import argparse
import csv
import math
import time
from pathlib import Path

import tomli
import torch
from shala_text import Text
from torch import Tensor, nn


def read_texts(source: Path, columns: list[str]) -> list[bytes]:
    if source.is_dir():
        return [path.read_bytes() for path in sorted(source.rglob("*.txt"))]
    with source.open(encoding="utf-8", newline="") as file:
        texts = [" ".join(row[column] for column in columns).strip() for row in csv.DictReader(file)]
    return [text.encode() for text in texts if text]


def mean_and_interval(values: Tensor) -> str:
    return f"{values.mean():.3f} +- {1.96 * values.std() / math.sqrt(len(values)):.3f}"


def shared_words(texts: Tensor, others: Tensor) -> Tensor:
    pairs = [(set(a) - {0, 1}, set(b) - {0, 1}) for a, b in zip(texts.tolist(), others.tolist(), strict=True)]
    return torch.tensor([2 * len(a & b) / (len(a) + len(b)) for a, b in pairs])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of .txt files, or a CSV file")
    parser.add_argument("--columns", nargs="+", default=["text"], help="columns of the CSV that make up a text")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="an option of the modality")
    parser.add_argument("--texts", type=int, default=2200, help="texts to use, drawn at random")
    parser.add_argument("--held-out", type=int, default=200)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--latent-dim", type=int, default=32)
    parser.add_argument("--kl-weight", type=float, default=0.1)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--show", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    every = read_texts(args.source, args.columns)
    fields = [{"txt": every[i]} for i in torch.randperm(len(every)).tolist()[: args.texts]]
    text = Text(Text.Options(**tomli.loads("\n".join(args.set))))
    text.fit(fields[args.held_out :])
    x_NL = torch.stack([x for x in map(text.read, fields) if x is not None])
    held_out, train = x_NL[: args.held_out], x_NL[args.held_out :]
    encoder, decoder = text.encoder(64), text.decoder(args.latent_dim)
    to_posterior = nn.Linear(64, 2 * args.latent_dim)
    with torch.no_grad():
        to_posterior.bias[args.latent_dim :] = -2.0  # little noise at the start
        to_posterior.weight[args.latent_dim :] = 0.0
    networks = nn.ModuleList([encoder, decoder, to_posterior]).train()
    optimiser = torch.optim.AdamW(networks.parameters(), lr=args.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.learning_rate, total_steps=args.steps, pct_start=0.1)
    start = time.perf_counter()
    for _ in range(args.steps):
        x = train[torch.randint(len(train), (args.batch_size,))]
        mean, log_variance = to_posterior(encoder(x)).chunk(2, 1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1)
        optimiser.zero_grad()
        ((args.kl_weight * kl - decoder(z).log_prob(x)).sum() / (x != 0).sum()).backward()
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    seconds = (time.perf_counter() - start) / args.steps
    networks.eval()
    with torch.no_grad():
        z = to_posterior(encoder(held_out))[:, : args.latent_dim]
        num_tokens = (held_out != 0).sum(1)
        own, other = (decoder(some).log_prob(held_out) / num_tokens for some in (z, z.roll(1, 0)))
        modes = decoder(z).mode()
    print(f"{len(train)} texts, {text.vocabulary.num_tokens} tokens, {seconds:.3f} s a step, KL {kl.mean():.1f} nats")
    print(f"nats per token, own z       {mean_and_interval(own)}")
    print(f"nats per token, another's z {mean_and_interval(other)}")
    print(f"paired difference           {mean_and_interval(own - other)}")
    print(f"shared words, own text      {mean_and_interval(shared_words(modes, held_out))}")
    print(f"shared words, another's     {mean_and_interval(shared_words(modes, held_out.roll(1, 0)))}")
    for x, mode in list(zip(held_out, modes, strict=True))[: args.show]:
        print(f"\ntext: {text.preview(x).text}\nmode: {text.preview(mode).text}")


if __name__ == "__main__":
    main()
