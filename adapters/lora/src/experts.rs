//! Mixtures of experts. An update is stored for each projection of each expert, under the names of
//! checkpoints (`model.layers.0.mlp.experts.3.up_proj`), as peft writes it with transformers 4.
//!
//! transformers 5 stacks the experts of a layer in memory, and peft 0.21 an adapter's updates with
//! them when it loads such a file: gate and its other input as one matrix of twice the rank, with
//! the settings' rank and alpha for all experts. What cannot be stacked so would load as another
//! adapter, or not at all, and is refused here.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Error, LoraSpec, Projection, Result};

/// Names of an expert's gate and of its other input, which peft takes together only.
pub(crate) const PAIRED: [[&str; 2]; 2] = [["gate_proj", "up_proj"], ["w1", "w3"]];

/// One projection of one expert, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Expert<'a> {
    /// The layer's experts: `model.layers.0.mlp.experts`.
    pub stack: &'a str,
    /// The expert's number.
    pub index: usize,
    /// The projection within the expert: `up_proj`.
    pub part: &'a str,
}

impl<'a> Expert<'a> {
    /// Reads a projection's name; `None` for one outside experts.
    pub fn named(projection: &'a str) -> Option<Expert<'a>> {
        const EXPERTS: &str = ".experts.";
        let at = projection.find(EXPERTS)?;
        let (index, part) = projection[at + EXPERTS.len()..].split_once('.')?;
        Some(Expert {
            stack: &projection[..at + EXPERTS.len() - 1],
            index: index.parse().ok()?,
            part,
        })
    }
}

/// Whether a projection outside experts has the name that one within has: peft 0.21 takes its
/// update for theirs, unless the settings name the matrix itself.
pub(crate) fn mistaken(pairs: &BTreeSet<String>) -> impl Iterator<Item = &String> {
    let of_experts = pairs.iter().filter_map(|p| Expert::named(p));
    let parts: BTreeSet<&str> = of_experts.map(|e| e.part).collect();
    pairs.iter().filter(move |p| {
        let last = p.rsplit('.').next().unwrap_or(p);
        Expert::named(p).is_none() && parts.contains(last)
    })
}

impl LoraSpec {
    /// Checks that peft can stack the updates of these projections, some of them experts'.
    ///
    /// # Errors
    /// Settings that it refuses or reads otherwise beside experts, a gate without the other input.
    pub(crate) fn stackable<'a>(&self, pairs: impl Iterator<Item = &'a str>) -> Result<()> {
        let mut parts: BTreeMap<&str, BTreeSet<(&str, usize)>> = BTreeMap::new();
        let (mut first, mut odd) = (None, None);
        for pair in pairs {
            let Some(Expert { stack, index, part }) = Expert::named(pair) else {
                continue;
            };
            parts.entry(part).or_default().insert((stack, index));
            first = first.or(Some(pair));
            if self.rank_of(pair) != self.rank || self.alpha_of(pair) != self.alpha {
                odd = odd.or(Some(pair));
            }
        }
        let Some(first) = first else {
            return Ok(());
        };
        let refuse = |what: &str| Err(Error::rule(format!("{first} is an expert's: {what}")));
        if self.dora {
            return refuse("peft 0.21 has no DoRA of experts; take a plain LoRA");
        }
        if self.rslora {
            return refuse(
                "peft 0.21 scales experts otherwise under rsLoRA; take a plain LoRA whose alpha is \
                 multiplied by sqrt(rank)",
            );
        }
        if self.dropout != 0.0 {
            return refuse(&format!(
                "peft 0.21 refuses dropout beside experts; it is {}, and must be 0",
                self.dropout
            ));
        }
        if let Some(odd) = odd {
            return Err(Error::rule(format!(
                "{odd} is an expert's, with a rank or alpha of its own: peft 0.21 has one for all \
                 experts, which must be rank {} and alpha {}",
                self.rank, self.alpha
            )));
        }
        for [gate, up] in PAIRED {
            if parts.get(gate) != parts.get(up) {
                return refuse(&format!(
                    "peft 0.21 holds {gate} and {up} of an expert as one matrix, so that both get \
                     an update or neither"
                ));
            }
        }
        Ok(())
    }

    /// Checks that a new adapter updates all experts alike, since peft has one matrix for all of a
    /// layer and one setting for all layers.
    ///
    /// # Errors
    /// A projection of some experts only; one outside experts that would be taken for theirs.
    pub(crate) fn all_experts_alike(&self, projections: &[Projection]) -> Result<()> {
        let (adapted, left): (Vec<&Projection>, Vec<&Projection>) =
            projections.iter().partition(|p| self.adapts(p));
        self.stackable(adapted.iter().map(|p| p.name.as_str()))?;
        let wanted: BTreeMap<&str, &str> = adapted
            .iter()
            .map(|p| {
                (
                    p.name.rsplit('.').next().unwrap_or(&p.name),
                    p.name.as_str(),
                )
            })
            .collect();
        let lacking = left.iter().find_map(|p| {
            let expert = Expert::named(&p.name)?;
            Some((wanted.get(expert.part)?, &p.name))
        });
        match lacking {
            Some((one, other)) => Err(Error::rule(format!(
                "the adapter's targets match {one} and not {other}: peft 0.21 takes every {} of a \
                 mixture for its experts', of which all get an update or none",
                other.rsplit('.').next().unwrap_or(other)
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::Targets;

    fn projections() -> Vec<Projection> {
        let mut all = vec!["model.layers.0.self_attn.q_proj".to_string()];
        for part in ["gate_proj", "up_proj", "down_proj"] {
            all.push(format!("model.layers.0.mlp.{part}"));
            let of_experts = (1..3).flat_map(|l| {
                (0..2).map(move |e| format!("model.layers.{l}.mlp.experts.{e}.{part}"))
            });
            all.extend(of_experts);
        }
        all.push("model.layers.1.mlp.gate".into());
        all.iter().map(|name| Projection::new(name, 4, 4)).collect()
    }

    fn checked(spec: &LoraSpec) -> String {
        match spec.all_experts_alike(&projections()) {
            Ok(()) => String::new(),
            Err(e) => e.to_string(),
        }
    }

    fn on(targets: &[&str]) -> LoraSpec {
        LoraSpec {
            targets: Targets::Names(targets.iter().map(|t| (*t).to_string()).collect()),
            ..LoraSpec::default()
        }
    }

    #[test]
    fn a_projection_of_an_expert_is_known_by_its_name() {
        let name = "model.layers.0.mlp.experts.12.up_proj";
        let found = Expert::named(name).unwrap();
        assert_eq!(
            (found.stack, found.index),
            ("model.layers.0.mlp.experts", 12)
        );
        assert_eq!(found.part, "up_proj");
        for other in [
            "model.layers.0.mlp.up_proj",
            "model.layers.0.mlp.experts.gate_up_proj",
            "model.layers.0.mlp.shared_expert.up_proj",
        ] {
            assert_eq!(Expert::named(other), None);
        }
    }

    #[test]
    fn what_peft_cannot_stack_is_refused() {
        let all = ["q_proj", "gate", "gate_proj", "up_proj", "down_proj"];
        assert_eq!(checked(&on(&all)), "");
        assert_eq!(checked(&LoraSpec::default()), "");
        assert_eq!(checked(&on(&["q_proj", "gate"])), "");
        assert_eq!(checked(&on(&["down_proj"])), "");
        let with = |change: &dyn Fn(&mut LoraSpec)| {
            let mut spec = on(&all);
            change(&mut spec);
            checked(&spec)
        };
        for (found, says) in [
            (with(&|s| s.dora = true), "no DoRA of experts"),
            (with(&|s| s.rslora = true), "under rsLoRA"),
            (with(&|s| s.dropout = 0.1), "it is 0.1, and must be 0"),
            (
                with(&|s| s.rank_pattern = vec![("up_proj".into(), 2)]),
                "model.layers.1.mlp.experts.0.up_proj is an expert's, with a rank or alpha of its own",
            ),
            (
                checked(&on(&["gate_proj", "down_proj"])),
                "gate_proj and up_proj of an expert as one matrix",
            ),
            (
                checked(&on(&["experts.0.down_proj"])),
                "match model.layers.2.mlp.experts.0.down_proj and not model.layers.1.mlp.experts.1.down_proj",
            ),
            // peft would look for it among the experts
            (
                checked(&on(&["mlp.down_proj"])),
                "match model.layers.0.mlp.down_proj and not model.layers.1.mlp.experts.0.down_proj",
            ),
        ] {
            assert!(found.contains(says), "{found}");
        }
        assert_eq!(
            with(&|s| s.alpha_pattern = vec![("q_proj".into(), 2.0)]),
            ""
        );
    }

    #[test]
    fn a_dense_layer_s_projections_are_told_from_experts() {
        let names: BTreeSet<String> = projections().into_iter().map(|p| p.name).collect();
        let found: Vec<&String> = mistaken(&names).collect();
        let dense = |part: &str| format!("model.layers.0.mlp.{part}");
        let wanted = ["down_proj", "gate_proj", "up_proj"].map(dense);
        assert_eq!(found, wanted.iter().collect::<Vec<_>>());
    }
}
