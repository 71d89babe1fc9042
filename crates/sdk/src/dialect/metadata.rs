//! How keys of files and configurations are written down in a dialect.

use super::{Form, Implied, Is, Key, Renamed};

impl Renamed {
    pub(super) const NONE: Renamed = Renamed {
        usual: "",
        here: "",
        older: false,
    };

    /// What most call `usual` and the family `here`.
    pub const fn new(usual: &'static str, here: &'static str) -> Self {
        Renamed {
            usual,
            here,
            older: false,
        }
    }

    /// The same, where `here` is an older name: it is read, and the usual one written.
    pub const fn older(self) -> Self {
        Renamed {
            older: true,
            ..self
        }
    }
}

impl Key {
    pub(super) const NONE: Key = Key {
        key: "",
        config: &[],
        form: Form::Real,
        factor: 1.0,
        reciprocal: false,
        times: "",
        kinds: &[],
        required: false,
        only_with: "",
    };

    /// A number.
    pub const fn real(key: &'static str, config: &'static [&'static str]) -> Self {
        Key {
            key,
            config,
            ..Key::NONE
        }
    }

    /// A whole number.
    pub const fn whole(key: &'static str, config: &'static [&'static str]) -> Self {
        Key::real(key, config).of(Form::Whole)
    }

    /// The same key with another form.
    pub const fn of(self, form: Form) -> Self {
        Key { form, ..self }
    }

    /// The same key of a list that tells layers of these two kinds apart.
    pub const fn between(self, kinds: &'static [&'static str]) -> Self {
        Key {
            form: Form::Slides,
            kinds,
            ..self
        }
    }

    /// The same key, whose number in a file is this one of the configuration times as large.
    pub const fn times(self, times: &'static str) -> Self {
        Key { times, ..self }
    }

    /// The same key, which is there if this flag of the configuration is true, and only then.
    pub const fn only_with(self, flag: &'static str) -> Self {
        Key {
            only_with: flag,
            ..self
        }
    }

    /// The same key, which must be there.
    pub const fn required(self) -> Self {
        Key {
            required: true,
            ..self
        }
    }
}

impl Implied {
    pub(super) const NONE: Implied = Implied {
        config: "",
        is: Is::Json,
        values: &[],
        layers: 0,
        absent: false,
        lenient: false,
    };

    /// One of these values, as JSON, of which a file means the first.
    pub const fn json(config: &'static str, values: &'static [&'static str]) -> Self {
        Implied {
            config,
            values,
            ..Implied::NONE
        }
    }

    /// A number that is computed.
    pub const fn number(config: &'static str, is: Is) -> Self {
        Implied {
            config,
            is,
            ..Implied::NONE
        }
    }

    /// The layers' kinds, again and again.
    pub const fn cycle(config: &'static str, kinds: &'static [&'static str]) -> Self {
        Implied {
            is: Is::Cycle,
            ..Implied::json(config, kinds)
        }
    }

    /// What this other key of the configuration says.
    pub const fn same_as(config: &'static str, other: &'static [&'static str]) -> Self {
        Implied {
            is: Is::Other,
            ..Implied::json(config, other)
        }
    }

    /// The same, of which a configuration may say otherwise, since the tensors tell.
    pub const fn told_by_tensors(self) -> Self {
        Implied {
            lenient: true,
            ..self
        }
    }

    /// The same for models of so many layers only.
    pub const fn with_layers(self, layers: usize) -> Self {
        Implied { layers, ..self }
    }

    /// The same, said by leaving the key away.
    pub const fn unsaid(self) -> Self {
        Implied {
            absent: true,
            ..self
        }
    }
}
