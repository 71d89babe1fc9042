//! Keys and values in anonymous memory maps: only pages that are written take memory, and freeing
//! them leaves no hole in the heap.

use memmap2::MmapMut;

use crate::{Error, Result};

/// Keys and values of one call of attention, f32 (slots, room, width) each, with a width of their
/// own; keys are rotated.
pub struct Maps {
    k: MmapMut,
    v: MmapMut,
    slots: usize,
    room: usize,
    /// Of keys, and of values.
    widths: [usize; 2],
}

impl Maps {
    /// Maps with room for `room` rows in each of `slots`.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn new(slots: usize, room: usize, widths: [usize; 2]) -> Result<Maps> {
        let list = |width: usize| -> Result<MmapMut> {
            let bytes = slots.saturating_mul(room).saturating_mul(4 * width);
            let short = |e| {
                let (mib, at) = (bytes >> 20, "keys or values of one block");
                Error::OutOfMemory(format!("out of memory: {mib} MiB for {at}: {e}"))
            };
            if bytes > isize::MAX as usize {
                return Err(short(std::io::ErrorKind::OutOfMemory.into()));
            }
            let map = MmapMut::map_anon(bytes.max(1)).map_err(short)?;
            // with large pages each slot's first row would take 2 MiB; a system that does not know
            // the advice refuses it
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::NoHugePage);
            Ok(map)
        };
        let (k, v) = (list(widths[0])?, list(widths[1])?);
        Ok(Maps {
            k,
            v,
            slots,
            room,
            widths,
        })
    }

    /// Makes room for `rows` rows in each slot, and keeps each one's first `lens`.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn grow(&mut self, rows: usize, lens: &[usize]) -> Result<()> {
        if rows <= self.room {
            return Ok(());
        }
        let mut new = Maps::new(self.slots, rows.max(2 * self.room), self.widths)?;
        for (slot, &len) in lens.iter().enumerate() {
            new.write(slot, 0, self.slot(slot, len));
        }
        *self = new;
        Ok(())
    }

    /// A slot's first `len` keys and values.
    pub fn slot(&self, slot: usize, len: usize) -> [&[f32]; 2] {
        // a map begins at a page, so its values are aligned
        let [k, v] = self.widths;
        [(&self.k, k), (&self.v, v)].map(|(map, width)| {
            let from = slot * self.room * width;
            &bytemuck::cast_slice(map)[from..from + len * width]
        })
    }

    /// Writes keys and values behind a slot's first `len`.
    pub fn write(&mut self, slot: usize, len: usize, kv: [&[f32]; 2]) {
        let maps = [&mut self.k, &mut self.v].into_iter();
        for ((map, width), new) in maps.zip(self.widths).zip(kv) {
            let from = (slot * self.room + len) * width;
            bytemuck::cast_slice_mut(map)[from..from + new.len()].copy_from_slice(new);
        }
    }

    /// Bytes of both maps, whether written or not.
    pub fn bytes(&self) -> usize {
        4 * self.slots * self.room * self.widths.iter().sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::Maps;

    #[test]
    fn rows_stay_when_their_room_grows() {
        let mut rows = Maps::new(2, 1, [3, 2]).unwrap();
        rows.write(1, 0, [&[1.0, 2.0, 3.0], &[4.0, 5.0]]);
        rows.grow(1, &[0, 1]).unwrap();
        assert_eq!(rows.bytes(), 4 * 2 * (3 + 2));
        rows.grow(5, &[0, 1]).unwrap();
        assert_eq!(rows.bytes(), 4 * 2 * 5 * (3 + 2));
        rows.write(1, 1, [&[7.0; 12], &[8.0; 8]]);
        rows.write(0, 0, [&[9.0; 15], &[9.0; 10]]);
        let [k, v] = rows.slot(1, 5);
        assert_eq!(
            (&k[..4], &v[..3]),
            (&[1.0, 2.0, 3.0, 7.0][..], &[4.0, 5.0, 8.0][..])
        );
        assert_eq!((k.len(), v.len(), k[14], v[9]), (15, 10, 7.0, 8.0));
    }

    #[test]
    fn too_much_is_an_error() {
        for (slots, room) in [(1 << 20, 1 << 20), (1 << 40, 1 << 40)] {
            let error = Maps::new(slots, room, [1 << 10; 2]).err().unwrap();
            assert!(error.is_out_of_memory(), "{error}");
        }
    }
}
