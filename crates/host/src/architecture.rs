//! [`Architecture`] of a loaded plugin.

use randori_sdk::{
    Dialect, abi,
    seam::{Architecture, Backend, Id, OpResult},
};

use crate::{
    Error, Result, dialect,
    object::Object,
    ops::{Call, OPS},
    sink::Complaint,
};

/// Calls the architecture's C table.
pub(crate) struct Loaded {
    object: Object,
    layers: usize,
    dialect: Dialect,
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

    /// Uses the given op table instead of this host's, for tests of version skew.
    pub(crate) fn with_ops(object: Object, ops: &'static abi::Ops) -> Result<Self> {
        let dialect = dialect::of(&object.name, &object.functions)?;
        let mut loaded = Loaded {
            object,
            layers: 0,
            dialect,
            ops,
        };
        let complaint = Complaint::default();
        if let Some(layers) = loaded.table().layers {
            // SAFETY: object and sink are alive.
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
        // SAFETY: `info` has checked the table's kind and made it as long as ours.
        unsafe { &*self.object.functions.vtable.cast::<abi::Arch>() }
    }

    /// Runs one function of the table; an error says which.
    fn run(
        &self,
        part: std::fmt::Arguments,
        backend: &mut dyn Backend,
        code: impl FnOnce(abi::Graph) -> abi::Tensor,
    ) -> OpResult {
        Call::run(backend, self.object.functions.sdk, code)
            .map_err(|why| format!("architecture {}, {part}: {why}", self.object.name))
    }
}

const CHECKED: &str = "its function is missing";

impl Architecture for Loaded {
    fn name(&self) -> &str {
        &self.object.name
    }

    fn dialect(&self) -> Dialect {
        self.dialect
    }

    fn layers(&self) -> usize {
        self.layers
    }

    // SAFETY of the calls below: object and table are alive, the graph is the running call's.

    fn embed(&self, backend: &mut dyn Backend, ids: Id) -> OpResult {
        let embed = self.table().embed.ok_or(CHECKED)?;
        // SAFETY: above.
        let run = |g| unsafe { embed(self.object.this, self.ops, g, ids) };
        self.run(format_args!("embed"), backend, run)
    }

    fn block(&self, backend: &mut dyn Backend, layer: usize, x: Id) -> OpResult {
        let block = self.table().block.ok_or(CHECKED)?;
        // SAFETY: above.
        let run = |g| unsafe { block(self.object.this, self.ops, g, layer, x) };
        self.run(format_args!("block {layer}"), backend, run)
    }

    fn head(&self, backend: &mut dyn Backend, x: Id) -> OpResult {
        let head = self.table().head.ok_or(CHECKED)?;
        // SAFETY: above.
        let run = |g| unsafe { head(self.object.this, self.ops, g, x) };
        self.run(format_args!("head"), backend, run)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{mem::offset_of, path::Path};

    use randori_sdk::{
        Config, Graph, Tensor,
        seam::{AttnSpec, Binary, RopeSpec, RouteSpec, Unary},
    };

    use super::*;
    use crate::info;

    /// The op table of an older host, which ends before `concat`.
    static OLD: abi::Ops = abi::Ops {
        size: offset_of!(abi::Ops, concat),
        ..OPS
    };

    /// The op table of a host that ends before the last op.
    static BEFORE_CARRIED: abi::Ops = abi::Ops {
        size: offset_of!(abi::Ops, carried),
        ..OPS
    };

    /// The op table of a newer host, which goes on after this one's end.
    static NEW: abi::Ops = abi::Ops {
        size: size_of::<abi::Ops>() + 8,
        ..OPS
    };

    /// A table that has nothing but its size.
    static NONE: abi::Ops = abi::Ops {
        size: offset_of!(abi::Ops, fail),
        ..OPS
    };

    fn misfit(how: &str, ops: &'static abi::Ops) -> Loaded {
        // SAFETY: a descriptor made by `plugin!`.
        let read = unsafe { info::read(&randori_plugin_misbehave::PLUGIN, Path::new("")) };
        let (info, functions) = read.unwrap();
        let config = format!(r#"{{"misbehave": "{how}"}}"#);
        let object = Object::new(&info.items[0], functions[0], &[], &config).unwrap();
        Loaded::with_ops(object, ops).unwrap()
    }

    #[test]
    fn an_older_host_names_the_op_it_lacks() {
        let error = misfit("concat", &OLD).block(&mut Any, 0, 1).unwrap_err();
        let says = "architecture misfit, block 0: this host is too old to have `concat` (";
        assert!(error.starts_with(says), "{error}");
        assert!(error.contains("misbehave/src/lib.rs:"), "{error}");
        // and so one from before values crossed blocks
        let error = misfit("carry", &BEFORE_CARRIED).block(&mut Any, 0, 1);
        let error = error.unwrap_err();
        assert!(error.contains("too old to have `carried`"), "{error}");
        assert_eq!(misfit("carry", &OPS).block(&mut Any, 0, 1), Ok(7));
        // an architecture that does not use it runs
        assert_eq!(misfit("well", &OLD).block(&mut Any, 0, 1), Ok(7));
        assert_eq!(misfit("concat", &OPS).block(&mut Any, 0, 1), Ok(7));
        assert_eq!(misfit("concat", &NEW).block(&mut Any, 0, 1), Ok(7));
        // where even an error cannot be reported, nothing beyond the table is read
        let error = misfit("concat", &NONE).block(&mut Any, 0, 1).unwrap_err();
        let says = "architecture misfit, block 0: it answered no tensor and gave no reason";
        assert_eq!(error, says);
    }

    /// A backend that returns 7 from every op.
    pub(crate) struct Any;

    impl Backend for Any {
        fn embed(&mut self, _: &str, _: Id, _: usize, _: usize) -> OpResult {
            Ok(7)
        }
        fn linear(&mut self, _: &str, _: Id, _: usize, _: bool) -> OpResult {
            Ok(7)
        }
        fn rms_norm(&mut self, _: &str, _: Id, _: f64, _: f32) -> OpResult {
            Ok(7)
        }
        fn layer_norm(&mut self, _: &str, _: Id, _: f64, _: bool) -> OpResult {
            Ok(7)
        }
        fn rope(&mut self, _: Id, _: &RopeSpec) -> OpResult {
            Ok(7)
        }
        fn attention(&mut self, _: Id, _: Id, _: Id, _: &AttnSpec) -> OpResult {
            Ok(7)
        }
        fn moe(
            &mut self,
            _: Id,
            _: Id,
            _: &RouteSpec,
            _: &mut dyn FnMut(&mut dyn Backend, usize, Id) -> Id,
        ) -> OpResult {
            Ok(7)
        }
        fn unary(&mut self, _: Unary, _: Id) -> OpResult {
            Ok(7)
        }
        fn binary(&mut self, _: Binary, _: Id, _: Id) -> OpResult {
            Ok(7)
        }
        fn affine(&mut self, _: Id, _: f64, _: f64) -> OpResult {
            Ok(7)
        }
        fn unflatten(&mut self, _: Id, _: usize) -> OpResult {
            Ok(7)
        }
        fn flatten(&mut self, _: Id) -> OpResult {
            Ok(7)
        }
        fn narrow(&mut self, _: Id, _: usize, _: usize) -> OpResult {
            Ok(7)
        }
        fn concat(&mut self, _: &[Id]) -> OpResult {
            Ok(7)
        }
        fn delta_rule(&mut self, _: Id, _: Id, _: Id, _: Id, _: Id) -> OpResult {
            Ok(7)
        }
        fn conv(&mut self, _: &str, _: Id, _: usize, _: bool) -> OpResult {
            Ok(7)
        }
        fn param(&mut self, _: &str, _: &[usize]) -> OpResult {
            Ok(7)
        }
        fn carry(&mut self, _: &str, _: Id) -> OpResult {
            Ok(7)
        }
        fn carried(&mut self, _: &str) -> OpResult {
            Ok(7)
        }
    }

    /// An architecture of a thousand ops without weights.
    struct Chain;

    impl randori_sdk::Arch for Chain {
        const NAME: &'static str = "chain";
        fn new(_: &Config) -> randori_sdk::Result<Self> {
            Ok(Chain)
        }
        fn layers(&self) -> usize {
            1
        }
        fn embed<'g>(&self, _: &Graph<'g>, ids: Tensor<'g>) -> Tensor<'g> {
            ids
        }
        fn block<'g>(&self, _: &Graph<'g>, _: usize, x: Tensor<'g>) -> Tensor<'g> {
            (0..1000).fold(x, |x, _| x.silu())
        }
        fn head<'g>(&self, _: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
            x
        }
    }

    /// Measures a call through the boundary: `cargo test --release -p randori-host --lib
    /// boundary_cost -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn boundary_cost() {
        // SAFETY: descriptors made by `plugin!` and by the SDK.
        let read = unsafe { info::read(&randori_plugin_llama::PLUGIN, Path::new("")) };
        let (info, functions) = read.unwrap();
        let config = r#"{"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24,
            "num_hidden_layers": 2, "vocab_size": 32, "head_dim": 64}"#;
        let object = Object::new(&info.items[0], functions[0], &[], config).unwrap();
        let llama = Loaded::new(object).unwrap();
        let item = randori_sdk::arch::item::<Chain>();
        let functions = info::Functions {
            create: item.create.unwrap(),
            destroy: item.destroy.unwrap(),
            vtable: item.vtable,
            sdk: abi::Str::new(""),
        };
        let object = Object::new(&info.items[0], functions, &[], "{}").unwrap();
        let chain = Loaded::new(object).unwrap();
        for (name, arch, ops, calls) in [
            ("a llama block of 20", &llama, 20, 100_000),
            ("a chain of 1000", &chain, 1000, 10_000),
        ] {
            let start = std::time::Instant::now();
            for _ in 0..calls {
                arch.block(&mut Any, 0, 1).unwrap();
            }
            let each = start.elapsed().as_nanos() as f64 / f64::from(calls * ops);
            eprintln!("{each:.1} ns an op in {name}");
        }
    }
}
