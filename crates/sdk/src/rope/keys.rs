//! A configuration's rotary keys, in either of transformers' spellings.

use super::rules::{RopeKind, RopeRules, Share};
use crate::{Config, Result, json::Json};

/// A configuration's rotary keys, in either version's section.
pub(super) struct Keys<'a> {
    rules: &'a RopeRules,
    config: &'a Config,
    /// The sections that are read, the one whose keys count first in front; none: plain.
    sections: Vec<Config>,
    /// v5's whole section, where it is keyed by layer type.
    keyed: Option<Config>,
}

impl<'a> Keys<'a> {
    pub(super) fn of(rules: &'a RopeRules, config: &'a Config) -> Result<Self> {
        let absent = rules.absent.map(Config::parse).transpose()?;
        let filled = |key: &str| -> Result<Option<Config>> {
            // an empty one counts as absent
            let found = config.section(key)?;
            Ok(found.filter(|section| section.entries().next().is_some()))
        };
        let (v4, v5) = (filled("rope_scaling")?, filled("rope_parameters")?);
        let v4 = v4.filter(|_| rules.scaled || rules.layer_type.is_none());
        let (mut sections, mut keyed) = (Vec::new(), None);
        match rules.layer_type {
            None => {
                sections.extend(v4.or(v5).or(absent));
                if let Some((section, key)) = sections.iter().find_map(|s| Some((s, part(s)?))) {
                    let what =
                        "is keyed by layer type, which is not supported: all layers turn alike";
                    return Err(section.error(key, what));
                }
            }
            Some(kind) => {
                if let Some(v4) = v4.as_ref().filter(|s| s.has("type") && !s.has("rope_type")) {
                    return Err(
                        v4.error("type", "is an old name: this architecture wants rope_type")
                    );
                }
                if v5.as_ref().is_some_and(|s| part(s).is_none()) {
                    let what = format!("is not keyed by layer type: `{kind}` is missing");
                    return Err(config.error("rope_parameters", &what));
                }
                let none = v4.is_none() && v5.is_none();
                sections.extend(v4);
                if let Some(v5) = v5 {
                    sections.extend(v5.section(kind)?);
                    keyed = Some(v5);
                }
                sections.extend(absent.filter(|_| none));
            }
        }
        Ok(Keys {
            rules,
            config,
            sections,
            keyed,
        })
    }

    /// The first section's value.
    fn inside<'s, T>(
        &'s self,
        read: impl Fn(&'s Config) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        for section in &self.sections {
            if let Some(value) = read(section)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// A number of the sections.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.inside(|section| section.f64_opt(key))
    }

    /// A number of the sections that must be there.
    pub(super) fn need(&self, key: &str) -> Result<f64> {
        self.number(key)?.ok_or_else(|| self.missing(key))
    }

    fn missing(&self, key: &str) -> crate::Error {
        let place = self.sections.first().unwrap_or(self.config);
        place.error(key, "is missing")
    }

    /// A list of the sections that must have an entry for each pair.
    pub(super) fn divisors(&self, key: &str, pairs: usize) -> Result<Vec<f64>> {
        let list = self.inside(|section| section.f64s(key))?;
        match list {
            None => Err(self.missing(key)),
            Some(list) if list.len() != pairs => {
                let place = self.sections.first().unwrap_or(self.config);
                let what = format!("has {} entries for {pairs} pairs of features", list.len());
                Err(place.error(key, &what))
            }
            Some(list) => Ok(list),
        }
    }

    pub(super) fn theta(&self) -> Result<f64> {
        let inside = self.number("rope_theta")?;
        match (inside, self.rules.theta_key) {
            (Some(theta), _) => Ok(theta),
            (None, Some(key)) => self.config.f64_or(key, self.rules.theta),
            (None, None) => Ok(self.rules.theta),
        }
    }

    /// The share of a head that is rotated.
    pub(super) fn share(&self, kind: RopeKind) -> Result<f64> {
        const KEY: &str = "partial_rotary_factor";
        let given = match self.number(KEY)? {
            Some(share) => Some(share),
            None => self.config.f64_opt(KEY)?,
        };
        match self.rules.share {
            Share::Part(absent) => Ok(given.unwrap_or(absent)),
            Share::Whole if kind == RopeKind::Proportional => Ok(given.unwrap_or(1.0)),
            Share::Whole if kind == RopeKind::Default => Ok(1.0),
            Share::Whole => match given {
                Some(share) if share != 1.0 => {
                    let name = self.kind_name()?;
                    let what = format!(
                        "is {share} beside rope_type \"{name}\": this architecture turns whole heads"
                    );
                    Err(self.config.error(KEY, &what))
                }
                _ => Ok(1.0),
            },
        }
    }

    fn kind_name(&self) -> Result<&str> {
        let named = self.inside(|section| section.str_opt("rope_type"))?;
        let older = self.inside(|section| section.str_opt("type"))?;
        Ok(named.or(older).unwrap_or("default"))
    }

    pub(super) fn kind(&self) -> Result<RopeKind> {
        let name = self.kind_name()?;
        let known = self.rules.kinds.iter().find(|(known, _)| *known == name);
        match known {
            Some((_, kind)) => Ok(*kind),
            None => {
                let known: Vec<&str> = self.rules.kinds.iter().map(|(name, _)| *name).collect();
                let what = format!("is \"{name}\"; supported: {}", known.join(", "));
                let place = self.sections.first().unwrap_or(self.config);
                Err(place.error("rope_type", &what))
            }
        }
    }

    /// The model's original context length. As in transformers, a key beside a section that is not
    /// keyed by layer type takes precedence over that in it.
    pub(super) fn original(&self) -> Result<f64> {
        const KEY: &str = "original_max_position_embeddings";
        let beside = match self.rules.layer_type {
            None => self.config.f64_opt(KEY)?,
            Some(_) => None,
        };
        match (beside, self.rules.original, self.number(KEY)?) {
            (Some(length), ..) => Ok(length),
            (None, Some(own), _) => Ok(own as f64),
            (None, None, Some(length)) => Ok(length),
            (None, None, None) => self.longest(),
        }
    }

    /// The longest sequence that the model takes.
    pub(super) fn longest(&self) -> Result<f64> {
        self.config.f64("max_position_embeddings")
    }

    /// Yarn's `truncate`. transformers 5.24 reads it beside the layer types where there are some,
    /// where nobody writes it.
    pub(super) fn truncate(&self) -> Result<bool> {
        let read = |section: &Config| match section.has("truncate") {
            true => section.bool_or("truncate", true).map(Some),
            false => Ok(None),
        };
        let found = match &self.keyed {
            Some(keyed) => read(keyed)?,
            None => self.inside(read)?,
        };
        Ok(found.unwrap_or(true))
    }
}

/// The first member of a section that is an object: a layer type's part.
fn part(section: &Config) -> Option<&str> {
    let mut parts = section
        .entries()
        .filter(|(_, v)| matches!(v, Json::Object(_)));
    parts.next().map(|(key, _)| key)
}
