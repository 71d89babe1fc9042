"""The program `randori` on one model: what its verbs compute, as tensors."""

import json
import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file

# AdamW divides its first step by |gradient| + eps: beside such an eps it is gradient descent. STEP
# is how often the gradient is taken from the weights, so often that they vanish beside it.
EPS, STEP = 1e12, 1e6


class Refused(Exception):
    """What `randori` printed as its error."""


class Program:
    """One model at `source` (a folder or a GGUF file); files go into `out`, which is made. Prompts
    are taken without a template."""

    def __init__(self, binary, source, out):
        self.binary, self.out = Path(binary).resolve(), Path(out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.recipe = self.out / "recipe.toml"
        self.recipe.write_text(f"""name = "families"
[model]
source = {json.dumps(str(source))}
chat_template = "plain"
[data]
train = "prompts.jsonl"
validation = "none"
empty = "keep"
identical = "keep"
[adapter]
[generate]
sampling = [{{ name = "greedy" }}]
""")
        (self.out / "prompts.jsonl").touch()

    def run(self, verb, *args, adapter=None, **keys):
        given = [f"--set={k.replace('__', '.')}={v}" for k, v in keys.items()]
        given += ["--adapter", str(adapter)] if adapter else []
        done = subprocess.run(
            [self.binary, verb, "recipe.toml", "--quiet", *map(str, args), *given],
            cwd=self.out,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Refused((done.stderr + done.stdout).strip())

    def rows(self, name):
        return [json.loads(line) for line in (self.out / name).read_text().splitlines()]

    def pairs(self, rows):
        """A file of pairs of token ids: (prompt, real, generated) each."""
        lines = (
            json.dumps(dict(place=str(i), iteration=0, prompt=p, real=r, generated=g))
            for i, (p, r, g) in enumerate(rows)
        )
        (self.out / "pairs.jsonl").write_text("\n".join(lines) + "\n")

    def logps(self, prefixes, vocabulary, adapter=None):
        """Log-prob of every token of the vocabulary behind every prefix, (prefixes, vocabulary): a
        pair of responses of one token for every two."""
        last = vocabulary - 1
        self.pairs(
            [(p, [v], [min(v + 1, last)]) for p in prefixes for v in range(0, vocabulary, 2)]
        )
        self.run("score", "--pairs", "pairs.jsonl", "--out", "scored.jsonl", adapter=adapter)
        scored = self.rows("scored.jsonl")
        flat = torch.tensor(
            [[r["ref_real"], r["ref_generated"]] for r in scored], dtype=torch.float64
        )
        return flat.reshape(len(prefixes), -1)[:, :vocabulary]

    def prompt_ids(self, texts):
        """Token ids of prompts, as a player sees them."""
        self.text_pairs(texts)
        self.run("score", "--pairs", "texts.jsonl", "--out", "scored.jsonl")
        return [r["prompt"] for r in self.rows("scored.jsonl")]

    def text_pairs(self, texts):
        lines = (json.dumps(dict(prompt=t, chosen="one", rejected="two")) for t in texts)
        (self.out / "texts.jsonl").write_text("\n".join(lines) + "\n")

    def greedy(self, texts, tokens, adapter=None):
        """The likeliest so many tokens after each prompt, one after the other."""
        lines = (json.dumps(dict(prompt=t, response="one")) for t in texts)
        (self.out / "prompts.jsonl").write_text("\n".join(lines) + "\n")
        self.run(
            "generate",
            "--out",
            "answers.jsonl",
            adapter=adapter,
            generate__max_new_tokens=tokens,
            generate__min_new_tokens=tokens,
        )
        return [r["tokens"] for r in self.rows("answers.jsonl")]

    def train(self, pairs, to, adapter=None, **keys):
        """An adapter that `randori train` made of these pairs; a new one, unless one is given."""
        self.pairs(pairs)
        if not adapter:
            keys |= dict(adapter__rank=4, adapter__alpha=8.0)
        self.run(
            "train",
            "--fresh",
            "--pairs",
            "pairs.jsonl",
            "--out",
            to,
            adapter=adapter,
            train__warmup=0,
            train__schedule="constant",
            train__batch=len(pairs),
            loss__beta=1.0,
            **keys,
        )
        return self.out / to

    def gradients(self, pairs, adapter, parts=lambda name, before, after: [after]):
        """Gradients of the loss `spin` with this adapter as policy and as opponent, by the names in
        its file: what one step takes from its weights, of which `parts` says what became."""
        after = self.train(
            pairs, "step", adapter, train__clip=0, train__eps=EPS, train__lr=EPS * STEP
        )
        before, after = (load_file(Path(p) / "adapter_model.safetensors") for p in (adapter, after))
        return {
            name: sum(t.double() - part.double() for part in parts(name, t, after[name])) / STEP
            for name, t in before.items()
        }

    def export(self, to, name, *options, adapter=None):
        self.run("export", "--to", to, "--out", name, *options, adapter=adapter)
        return self.out / name
