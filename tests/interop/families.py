#!/usr/bin/env python
"""Every family against transformers, PyTorch, peft and llama.cpp: one table.

    families.py RANDORI [--family NAME]… [--write] [--keep FOLDER]

RANDORI is the program; packages: requirements.txt. Exit code 1 if a number is larger than its
column allows, or greedy tokens differ. `--write` puts the rows into docs/reference/models.md and
README.md, between their markers. `--keep` leaves the models and all that is written of them there.

Models: family_models.py; random weights, the same for every program. Adapters are trained by
Randori. Differences are relative: of logits (of the whole vocabulary behind some prefixes, as
log-probs) to the row's largest logit, of a gradient to the tensor's largest value. PyTorch sums f32
weights in f64, llama.cpp in f32. Of a prompt 32 tokens are compared, where of every two best logits
the better one is so by ten times what the column allows: the table has the smallest of these gaps.
"""

import argparse, json, os, random, re, sys, tempfile, warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
from functools import cache, cached_property
from pathlib import Path

import torch

from quiet import HERE, hush

hush()
import check
import family_models
from family_models import BORDER, STACKED, WINDOW
from make_goldens import EXPERTS, expert_names, greedy, short
from program import Program

torch.set_num_threads(1)
TOKENS = 32
PREFIXES = (1, 12, 40, 60, 80, 94, 100, 126)  # lengths
WORDS = (
    "the river rises in hills above a town and by time it reaches mill is forty metres wide one "
    "two three return def x of spring winter water stone bridge while cold light Grüße 12 345 "
    "moves under over again between never seldom"
).split()
# Of prompts, in tokens: with their answers inside Phi-3's border, inside windows, and beyond both.
LENGTHS = {
    "short": (6, 12),
    "middle": (BORDER + 2, WINDOW - TOKENS - 2),
    "long": (WINDOW + 4, WINDOW + 20),
}
PROMPTS, COMPARED = 40, 2  # of each length: how many there are, how many are compared
DISTINCT = 4  # tokens among the 32 that are compared, at least
MOVED = 1e-2  # what the adapter must change at least, relative


def figure(value):
    return f"{value:.1e}".replace("e-0", "e-")


class Wrong(Exception):
    """A number beyond what its column allows."""


def relative(ours, theirs):
    """Largest difference of log-probs, relative to the row's largest logit; `theirs` are logits."""
    theirs = torch.as_tensor(theirs).double()
    off = (ours - theirs.log_softmax(-1)).abs().amax(-1) / theirs.abs().amax(-1)
    return off.max().item() if torch.isfinite(off).all() else float("inf")


def checked(value, limit, complaints=()):
    if complaints or not value <= limit:
        raise Wrong("; ".join([figure(value), *complaints]))
    return figure(value)


def last_logits(model, prefixes, ids):
    """Logits behind every prefix, in a text one token longer: a model may look at its length."""
    with torch.no_grad():
        return torch.stack(
            [model(input_ids=ids[None, : n + 1]).logits[0, n - 1].double() for n in prefixes]
        )


class Player:
    """One of a family's models with an adapter that Randori trained, in Randori and in PyTorch."""

    def __init__(self, binary, folder, out, targets=None):
        self.folder, self.targets = folder, targets
        self.program = Program(binary, folder, out)
        self.base, complaints = check.model(str(folder))
        if complaints:
            raise RuntimeError(f"{folder}: {complaints}")
        self.vocabulary = self.base.get_input_embeddings().num_embeddings
        draw = torch.Generator().manual_seed(7)
        self.ids = torch.randint(3, self.vocabulary, (max(PREFIXES) + 1,), generator=draw)
        self.prompts = self.some_prompts()

    def some_prompts(self):
        """(kind of length, text, token ids)."""
        draw, found = random.Random(5), []
        count = check.tokenizer(str(self.folder))
        for kind, (least, most) in LENGTHS.items():
            while sum(k == kind for k, _ in found) < PROMPTS:
                text, want = draw.choice(WORDS), draw.randint(least, most)
                while len(count(text).input_ids) < want:
                    text += " " + draw.choice(WORDS)
                if len(count(text).input_ids) <= most:
                    found.append((kind, text))
        ids = self.program.prompt_ids([text for _, text in found])
        return [(kind, text, torch.tensor(i)) for (kind, text), i in zip(found, ids)]

    def pairs(self):
        """Prompts and two responses each; texts on both sides of windows and of Phi-3's border."""
        ids = self.ids.tolist()
        return [
            (ids[:n], ids[n : n + 9], ids[n + 11 : n + 11 + m])
            for n, m in ((100, 14), (36, 5), (3, 22), (60, 8))
        ]

    @cached_property
    def adapter(self):
        keys = dict(adapter__targets=json.dumps(self.targets)) if self.targets else {}
        return self.program.train(self.pairs(), "trained", train__epochs=6, train__lr=0.01, **keys)

    @cached_property
    def adapted(self):
        """The base with the adapter, by peft, and its complaints."""
        tied = self.base.config.tie_word_embeddings
        return check.adapted(str(self.folder), self.adapter, tied, trained=True)

    def logps(self, prefixes, adapter=None):
        return self.program.logps(
            [self.ids[:n].tolist() for n in prefixes], self.vocabulary, adapter
        )

    @cached_property
    def moved(self):
        """Ours with the adapter, which must not be the base's."""
        ours = self.logps(PREFIXES, self.adapter)
        if relative(ours, last_logits(self.base, PREFIXES, self.ids)) < MOVED:
            raise Wrong("the adapter changes next to nothing")
        return ours

    @cache
    def likeliest(self, model, limit, kinds):
        """Prompts of these kinds with PyTorch's likeliest tokens, and the smallest gap: prompts
        where gaps are ten times the limit, no text ends, and none is one token over and over; at
        least one of each kind."""
        stops = self.base.generation_config.eos_token_id
        stops = set(stops if isinstance(stops, list) else [stops])
        found, gaps = [], []
        for kind, text, ids in self.prompts:
            if kind not in kinds or sum(k == kind for k, *_ in found) == COMPARED:
                continue
            tokens, gap = greedy(model, ids, TOKENS, 10 * limit)
            if (
                gap > 10 * limit
                and not stops & set(tokens.tolist())
                and len(set(tokens.tolist())) >= DISTINCT
            ):
                found.append((kind, text, ids, tokens.tolist()))
                gaps.append(gap)
        if {kind for kind, *_ in found} != set(kinds):
            raise RuntimeError(f"{self.folder}: candidates too close in all prompts of a length")
        return found, min(gaps)


def equal(found, theirs, gap):
    wrong = sum(tokens != other for (*_, tokens), other in zip(found, theirs, strict=True))
    if wrong:
        raise Wrong(f"{wrong} of {len(found)} prompts differ")
    return f"gap {figure(gap)}"


# Every column: what it is called, the largest difference allowed, whether it is of the family's
# `plain` model, the function.
COLUMNS = {}


def column(title, limit, plain=False):
    def put(f):
        COLUMNS[f.__name__] = (title, limit, plain, f)
        return f

    return put


@column("logits", 1e-5)
def logits(player, family, limit):
    return checked(
        relative(player.logps(PREFIXES), last_logits(player.base, PREFIXES, player.ids)), limit
    )


@column("LoRA gradients", 1e-4)
def gradients(player, family, limit):
    """Of the loss `spin`, whose opponent is the same player."""
    model, _ = player.adapted
    model.zero_grad()
    loss = 0
    for prompt, *responses in player.pairs():
        real, generated = (summed(model, prompt, r) for r in responses)
        margin = real - generated
        loss = loss - torch.nn.functional.logsigmoid(margin - margin.detach())
    (loss / len(player.pairs())).backward()
    theirs = {short(n): p.grad for n, p in model.named_parameters() if p.requires_grad}
    if family.name in EXPERTS:
        theirs = expert_names(family.name, theirs, lora=True)
    ours = player.program.gradients(player.pairs(), player.adapter, stacked_apart)
    ours = {short(n): g for n, g in ours.items()}
    odd = sorted(set(ours) ^ set(theirs))
    complaints = [f"on one side only: {odd[:3]}"] if odd else []
    worst = max(
        (
            check.apart(ours[n], theirs[n]) / theirs[n].abs().max().item()
            for n in set(ours) & set(theirs)
        ),
        default=1.0,
    )
    return checked(worst, limit, complaints)


def stacked_apart(name, before, after):
    """What became of a matrix. Of a stacked one of gate and the other input, whose outputs take
    turns (gpt-oss), Randori reads a copy of A for each, and writes both with their halves of B in
    twice the rank, to which it fills up the others: A is (experts · rank, in), B (out, rank ·
    experts)."""
    if before.shape == after.shape:
        return [after]
    both = "experts.base_layer" in name
    count = STACKED if ".experts" in name else 1
    if "lora_A" in name:
        halves = after.reshape(count, 2, -1, after.shape[-1])
        return [halves[:, i].reshape(before.shape) for i in range(1 + both)]
    halves = after.reshape(len(after), 2, -1, count)
    own = halves[:, 0].clone()
    if both:
        own[1::2] = halves[1::2, 1]
    return [own.reshape(before.shape)]


def summed(model, prompt, response):
    out = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return out.log_softmax(-1).gather(1, torch.tensor(response)[:, None]).sum()


@column("32 greedy tokens", 1e-5)
def tokens(player, family, limit):
    found, gap = player.likeliest(player.base, limit, tuple(LENGTHS))
    return equal(found, player.program.greedy([text for _, text, *_ in found], TOKENS), gap)


@column("adapter in peft", 1e-4)
def peft(player, family, limit):
    """As `randori export --to peft` writes it."""
    written = player.program.export("peft", "peft", adapter=player.adapter)
    model, complaints = check.adapted(
        str(player.folder), written, player.base.config.tie_word_embeddings
    )
    return checked(
        relative(player.moved, last_logits(model, PREFIXES, player.ids)), limit, complaints
    )


@column("merged, in transformers", 1e-4)
def merged(player, family, limit):
    model, complaints = check.model(
        str(player.program.export("hf", "merged", "--dtype", "f32", adapter=player.adapter))
    )
    return checked(
        relative(player.moved, last_logits(model, PREFIXES, player.ids)), limit, complaints
    )


def known(family):
    """Prefixes and kinds of prompts that llama.cpp computes as transformers does."""
    if family.texts == "all":
        return PREFIXES, tuple(LENGTHS)
    inside = [n for n in PREFIXES if n < WINDOW]
    if family.texts == "inside":
        return inside, ("short", "middle")
    return [n for n in inside if n > BORDER], ("middle",)


def llama_cpp(player, family, file, lora=None):
    """Logits and greedy tokens of a model with its adapter."""
    prefixes, kinds = known(family)
    limit = family.in_llama_cpp
    model = check.llama_cpp_model(str(file), lora and str(lora))
    theirs = model.logits(player.ids[: max(prefixes)].tolist())
    ours = player.moved[[PREFIXES.index(n) for n in prefixes]]
    off = checked(relative(ours, theirs[[n - 1 for n in prefixes]]), limit)
    found, gap = player.likeliest(player.adapted[0], limit, kinds)
    ours = player.program.greedy([text for _, text, *_ in found], TOKENS, player.adapter)
    equal(found, ours, gap)
    theirs = [model.greedy(ids.tolist(), TOKENS) for _, _, ids, _ in found]
    return f"{off}, {equal(found, theirs, gap)}"


def gguf_of(player, name, adapter=None):
    return player.program.export("gguf", name, "--quant", "f32", adapter=adapter)


@column("GGUF in llama.cpp, 32 tokens", 1e-4, plain=True)
def gguf(player, family, limit):
    return llama_cpp(player, family, gguf_of(player, "merged.gguf", player.adapter))


@column("GGUF LoRA, 32 tokens", 1e-4, plain=True)
def gguf_lora(player, family, limit):
    lora = player.program.export("gguf-lora", "lora.gguf", adapter=player.adapter)
    return llama_cpp(player, family, gguf_of(player, "base.gguf"), lora)


@column("GGUF in", 1e-5, plain=True)
def gguf_in(player, family, limit):
    """Randori's own reading of its file, which llama.cpp has read."""
    prefixes, _ = known(family)
    there = Program(
        player.program.binary, gguf_of(player, "base.gguf"), player.program.out / "read"
    )
    ours = there.logps([player.ids[:n].tolist() for n in prefixes], player.vocabulary)
    return checked(relative(ours, last_logits(player.base, prefixes, player.ids)), limit)


# Cells that cannot be: (family, column) -> what the table says, and words of the error that a program
# answers with.
WITHOUT = {}


def cell(player, family, key):
    """A cell's text, and whether it is as it must be."""
    _, limit, _, f = COLUMNS[key]
    reason, words = WITHOUT.get((family.name, key), (None, None))
    try:
        got = f(player, family, limit)
    except Wrong as e:
        return f"DIFFERS: {e}", False
    except Exception as e:  # the other cells are wanted all the same
        if reason and words in str(e):
            return reason, True
        return "FAILS: " + " ".join(str(e).split())[:300], False
    return (got, True) if not reason else (f"{got}; expected: {reason}", False)


def row(binary, family, out):
    players = {}
    for kind in ("plain", "full"):
        folder = out / family.name / kind
        if folder.exists():
            there = out / "runs" / family.name / kind
            targets = family.targets_of_plain if kind == "plain" else None
            players[kind] = Player(binary, folder, there, targets or family.targets)
    cells, good = [], True
    for key, (title, _, plain, _) in COLUMNS.items():
        text, fine = cell(players["plain" if plain else next(reversed(players))], family, key)
        good &= fine
        cells.append(text)
        print(f"{family.name}: {title}: {text}", file=sys.stderr, flush=True)
    return cells, good


def table(lines):
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def wide(rows):
    """Everything, with what each column allows."""
    allowed = [figure(limit) for _, limit, *_ in COLUMNS.values()]
    return table(
        [
            ["family", *(title for title, *_ in COLUMNS.values())],
            ["---"] * (len(COLUMNS) + 1),
            ["*allowed*", *allowed],
            *([f"`{name}`", *cells] for name, cells in rows.items()),
        ]
    )


def narrow(rows):
    """One number a cell: differences, and the smallest gap of all texts."""
    keys = [key for key in COLUMNS if key != "tokens"]
    lines = [
        ["family", *(COLUMNS[key][0].removesuffix(", 32 tokens") for key in keys), "smallest gap"],
        ["---"] * (len(keys) + 2),
    ]
    for name, cells in rows.items():
        of = dict(zip(COLUMNS, cells, strict=True))
        gaps = [float(gap) for gap in re.findall(r"gap ([\d.e-]+)", " ".join(cells))]
        lines.append([f"`{name}`", *(of[key].split(", gap")[0] for key in keys), figure(min(gaps))])
    return table(lines)


BEGIN, END = "<!-- families: tests/interop/families.py --write -->\n", "\n<!-- end of families -->"


def between(text):
    start = text.index(BEGIN) + len(BEGIN)
    return start, text.index(END, start)


def write(rows):
    """Puts the rows between the markers of two pages; families that were not run keep theirs."""
    manual, readme = HERE.parents[1] / "docs/reference/models.md", HERE.parents[1] / "README.md"
    text = manual.read_text()
    start, stop = between(text)
    there = {
        m[1]: [c.strip() for c in m[2].split("|")]
        for m in re.finditer(r"(?m)^\| `(\w+)` \|(.*)\|$", text[start:stop])
    }
    both = {f.name: rows.get(f.name) or there.get(f.name) for f in family_models.FAMILIES}
    both = {name: cells for name, cells in both.items() if cells}
    for page, made in ((manual, wide(both)), (readme, narrow(both))):
        text = page.read_text()
        start, stop = between(text)
        page.write_text(text[:start] + made + text[stop:])


def main():
    words = argparse.ArgumentParser()
    words.add_argument("randori", type=Path)
    all_names = [f.name for f in family_models.FAMILIES]
    words.add_argument("--family", action="append", choices=all_names)
    words.add_argument("--write", action="store_true")
    words.add_argument("--keep", type=Path)
    given = words.parse_args()
    names = given.family or all_names
    rows, failed = {}, []
    with tempfile.TemporaryDirectory() as scratch:
        out = (given.keep or Path(scratch)).resolve()
        family_models.write(out, names)
        for family in family_models.FAMILIES:
            if family.name in names:
                rows[family.name], good = row(given.randori, family, out)
                failed += [] if good else [family.name]
    print(wide(rows))
    if given.write and failed:
        print("nothing is written where something is not as it must be", file=sys.stderr)
    elif given.write:
        write(rows)
    print(
        f"{len(rows)} families; not as they must be: {', '.join(failed) or 'none'}", file=sys.stderr
    )
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
