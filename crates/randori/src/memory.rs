//! How much memory is free, and the micro-batch that it is enough for.

use std::path::{Path, PathBuf};

use anyhow::Result;
use randori_host::Host;

use crate::bytes::{shown, unit};
use crate::plan::{Model, Plan};
use crate::recipe::{AUTO_MOST, ComputeDevice, OrAuto, Recipe};
use crate::watch::Watch;

/// The smallest micro-batch that is chosen; a larger pair stands alone in one.
pub const LEAST: usize = 256;
/// The share of the free memory that is planned with: figures may be 10 % off, and others want some
/// too.
const SHARE: f64 = 0.85;

/// Puts a number in the place of `train.micro_batch_tokens = "auto"`: the largest for which the
/// memory is enough.
pub fn settle(recipe: &mut Recipe, host: &Host, watch: &dyn Watch) -> Result<()> {
    if recipe.train.micro_batch_tokens != OrAuto::Auto {
        return Ok(());
    }
    let model = Model::of(recipe, Vec::new(), host)?;
    let plan = Plan::of(&model, recipe.clone())?;
    let free = at_hand(recipe.model.device);
    let limit = planned(free);
    let tokens = chosen(&plan, limit)?;
    recipe.train.micro_batch_tokens = OrAuto::Of(tokens);
    let why = match free {
        Some(free) => format!("{} {} are free", shown(free, free), unit(free)),
        None => "how much memory is free cannot be told here".to_string(),
    };
    let enough = match needed(&plan, tokens)? {
        needed if needed > limit => format!(
            "; even so {} {} may be needed, see `randori fit`",
            shown(needed, needed),
            unit(needed)
        ),
        _ => String::new(),
    };
    watch.say(format!(
        "  {:<38} {tokens} ({why}){enough}",
        "train.micro_batch_tokens"
    ));
    Ok(())
}

/// Bytes that are free where passes run; `None` where that cannot be told, or there is no such
/// device.
pub fn at_hand(device: ComputeDevice) -> Option<u64> {
    match device {
        ComputeDevice::Cpu => free(Path::new("/")),
        ComputeDevice::Cuda => free_on_card(),
    }
}

/// How many of so many free bytes are planned with: any number where nobody knows.
pub fn planned(free: Option<u64>) -> u64 {
    free.map_or(u64::MAX, |free| (SHARE * free as f64) as u64)
}

/// The largest of 4096, 2048, … that fits into `limit`, and no larger than a step, or else the
/// smallest.
pub fn chosen(plan: &Plan, limit: u64) -> Result<usize> {
    let mut tokens = AUTO_MOST;
    while tokens > LEAST && needed(plan, tokens)? > limit {
        tokens /= 2;
    }
    Ok(tokens)
}

/// What training and scoring take with micro-batches of so many tokens.
fn needed(plan: &Plan, tokens: usize) -> Result<u64> {
    Ok(plan.besides() + plan.at_once(&plan.responses(), tokens)?)
}

/// Bytes that are free on the card, and what this process has taken there by being open: figures
/// count that besides.
#[cfg(feature = "cuda")]
fn free_on_card() -> Option<u64> {
    let (_, free, _) = randori_engine::card().ok()?;
    Some(free as u64 + randori_engine::fit::CONTEXT)
}

/// Of a card that this program cannot use nothing is known.
#[cfg(not(feature = "cuda"))]
fn free_on_card() -> Option<u64> {
    None
}

/// Bytes that a process can get without anything being swapped: what the system says (Linux), or
/// less where a control group allows less. `root` is `/`.
pub fn free(root: &Path) -> Option<u64> {
    let text = |path: &Path| std::fs::read_to_string(path).ok();
    let meminfo = text(&root.join("proc/meminfo"))?;
    let line = meminfo.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let system = 1024 * line.split_whitespace().nth(1)?.parse::<u64>().ok()?;
    let groups = text(&root.join("proc/self/cgroup")).unwrap_or_default();
    let of_groups = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (kind, path) = (parts.next()?, parts.next()?);
        let (base, names) = match kind {
            "" => ("sys/fs/cgroup", ["memory.max", "memory.current"]),
            "memory" => (
                "sys/fs/cgroup/memory",
                ["memory.limit_in_bytes", "memory.usage_in_bytes"],
            ),
            _ => return None,
        };
        left(&root.join(base), path, names)
    });
    Some(of_groups.fold(system, u64::min))
}

/// What the group at `path` and those around it leave; no limit where none is readable.
fn left(base: &Path, path: &str, [limit, used]: [&str; 2]) -> Option<u64> {
    let number = |file: PathBuf| {
        let text = std::fs::read_to_string(file).ok()?;
        text.trim().parse::<u64>().ok() // `max`: no limit
    };
    let group = base.join(path.trim_start_matches('/'));
    let all = group.ancestors().take_while(|dir| dir.starts_with(base));
    let each = all.filter_map(|dir| {
        let stat = std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
        // files' pages that nobody has touched lately are given back first
        let pages = stat
            .lines()
            .find_map(|l| l.strip_prefix("inactive_file ")?.parse::<u64>().ok());
        let used = number(dir.join(used))?.saturating_sub(pages.unwrap_or(0));
        Some(number(dir.join(limit))?.saturating_sub(used))
    });
    each.min()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn with(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        free(root.path())
    }

    const SYSTEM: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:  9000 kB\nMemAvailable:   2000 kB\n",
    );

    #[test]
    fn the_system_or_the_tightest_group_decides() {
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[SYSTEM]), Some(2000 * 1024));
        let group = ("proc/self/cgroup", "0::/a/b\n");
        let own = ("sys/fs/cgroup/a/b/memory.max", "max\n");
        let used = ("sys/fs/cgroup/a/b/memory.current", "7\n");
        assert_eq!(with(&[SYSTEM, group, own, used]), Some(2000 * 1024));
        let outer = ("sys/fs/cgroup/a/memory.max", "5000\n");
        let now = ("sys/fs/cgroup/a/memory.current", "4000\n");
        assert_eq!(with(&[SYSTEM, group, own, used, outer, now]), Some(1000));
        let stat = ("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 300\n");
        assert_eq!(
            with(&[SYSTEM, group, own, used, outer, now, stat]),
            Some(1300)
        );
    }

    #[test]
    fn older_groups_count_too() {
        let group = (
            "proc/self/cgroup",
            "3:cpu:/x\n2:memory:/\n1:name=systemd:/\n",
        );
        let limit = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "6000\n");
        let used = ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1000\n");
        assert_eq!(with(&[SYSTEM, group, limit, used]), Some(5000));
    }
}
