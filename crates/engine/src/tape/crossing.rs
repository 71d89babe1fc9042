//! Ops about values that cross blocks, run eagerly.

use randori_kernels::Kernels;
use randori_sdk::seam::{Id, OpResult};

use super::{
    Tape, Value,
    carried::{CarriedValue, Kept},
    rules,
};

impl<K: Kernels> Tape<'_, '_, K> {
    /// Hands a value on to later calls.
    pub(super) fn hand_on(&mut self, name: &str, x: Id) -> OpResult {
        let (tensor, needs) = self.by_token("carry", x)?;
        rules::crosses("carry", self.rows.is_none())?;
        rules::carry(name, self.carried.contains_key(name))?;
        let value = CarriedValue {
            tensor,
            needs,
            kept: Kept::default(),
        };
        self.carried.insert(name.into(), value);
        self.carries.push((name.into(), x));
        Ok(x)
    }

    /// The value that an earlier call has handed on.
    pub(super) fn take_over(&mut self, name: &str) -> OpResult {
        rules::crosses("carried", self.rows.is_none())?;
        let own = self.carries.iter().any(|(other, _)| other == name);
        let found = self.carried.get(name).filter(|_| !own);
        let found = found.ok_or_else(|| rules::not_carried(name))?;
        let (tensor, needs, kept) = (found.tensor.clone(), found.needs, found.kept);
        let id = self.keep(Value {
            tensor: Some(tensor),
            silu: None,
            needs,
            common: false,
            kept,
        });
        if needs && self.record {
            self.taken.push((name.into(), id));
        }
        Ok(id)
    }

    /// Says of the values that this call has handed on where the cache keeps them.
    pub(super) fn note_kept(&mut self) {
        for (name, id) in &self.carries {
            let value = self.values.get(*id as usize - 1);
            if let (Some(value), Some(carried)) = (value, self.carried.get_mut(name)) {
                carried.kept = value.kept;
            }
        }
    }

    /// The call of attention that has cached these very keys and values.
    pub(super) fn cached_at(&self, k: Id, v: Id) -> Option<(usize, usize)> {
        let kept = |id: Id, part: usize| self.values.get(id as usize - 1)?.kept[part];
        kept(k, 0).filter(|at| kept(v, 1) == Some(*at))
    }

    /// Says that this call of attention has cached these keys and values.
    pub(super) fn cache_at(&mut self, k: Id, v: Id, at: (usize, usize)) {
        for (part, id) in [k, v].into_iter().enumerate() {
            if let Some(value) = self.values.get_mut(id as usize - 1) {
                value.kept[part] = Some(at);
            }
        }
    }
}
