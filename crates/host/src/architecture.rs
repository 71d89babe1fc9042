//! A loaded architecture as the engine sees it.

use randori_sdk::{
    abi,
    seam::{Architecture, Backend, Id, OpResult},
};

use crate::{
    Error, Result,
    object::Object,
    ops::{Call, OPS},
    sink::Complaint,
};

/// [`Architecture`] over the C table.
pub(crate) struct Loaded {
    object: Object,
    layers: usize,
    ops: *const abi::Ops,
}

// SAFETY: the table is a constant; the rest is `Send` and `Sync` by itself.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl Loaded {
    pub(crate) fn new(object: Object) -> Result<Self> {
        Self::with_ops(object, &OPS)
    }

    /// With another op table than this host's, for tests of version skew.
    pub(crate) fn with_ops(object: Object, ops: &'static abi::Ops) -> Result<Self> {
        let mut loaded = Loaded {
            object,
            layers: 0,
            ops,
        };
        let complaint = Complaint::default();
        // SAFETY: `info` has checked that the function is there; object and sink are alive.
        if let Some(layers) = loaded.table().layers {
            loaded.layers = unsafe { layers(loaded.object.this, complaint.sink()) };
        }
        if loaded.layers == 0 {
            let (name, why) = (&loaded.object.name, complaint.text());
            return Err(Error::Rule(format!(
                "architecture {name} has no layers: {why}"
            )));
        }
        Ok(loaded)
    }

    fn table(&self) -> &abi::Arch {
        // SAFETY: `info` has checked kind and size of the table.
        unsafe { &*self.object.functions.vtable.cast::<abi::Arch>() }
    }

    /// Says which part of which architecture failed.
    fn named(&self, part: std::fmt::Arguments, result: OpResult) -> OpResult {
        result.map_err(|why| format!("architecture {}, {part}: {why}", self.object.name))
    }
}

const CHECKED: &str = "its function is missing";

impl Architecture for Loaded {
    fn name(&self) -> &str {
        &self.object.name
    }

    fn layers(&self) -> usize {
        self.layers
    }

    // SAFETY of the calls below: object and table are alive, the graph is the running call's.

    fn embed(&self, backend: &mut dyn Backend, ids: Id) -> OpResult {
        let embed = self.table().embed.ok_or(CHECKED)?;
        // SAFETY: above.
        let run = |g| unsafe { embed(self.object.this, self.ops, g, ids) };
        self.named(format_args!("embed"), Call::run(backend, run))
    }

    fn block(&self, backend: &mut dyn Backend, layer: usize, x: Id) -> OpResult {
        let block = self.table().block.ok_or(CHECKED)?;
        // SAFETY: above.
        let run = |g| unsafe { block(self.object.this, self.ops, g, layer, x) };
        self.named(format_args!("block {layer}"), Call::run(backend, run))
    }

    fn head(&self, backend: &mut dyn Backend, x: Id) -> OpResult {
        let head = self.table().head.ok_or(CHECKED)?;
        // SAFETY: above.
        let run = |g| unsafe { head(self.object.this, self.ops, g, x) };
        self.named(format_args!("head"), Call::run(backend, run))
    }
}
