//! [`plugin!`](crate::plugin): the one constant a plugin exports.

/// Exports a plugin: one sentence, then its items, each `arch`, `dense`
/// ([`DenseFamily`](crate::DenseFamily)), `loss` ([`PairLoss`](crate::PairLoss) or
/// [`Loss`](crate::Loss)) or `sampler` and a type.
///
/// The crate needs `crate-type = ["cdylib", "rlib"]`, and a name that begins with `randori-plugin-`
/// for the host to find it by itself. The constant is also `PLUGIN`, for a host that links the
/// crate.
#[macro_export]
macro_rules! plugin {
    ($doc:expr, $($kind:ident $item:ty),+ $(,)?) => {
        #[cfg(panic = "abort")]
        ::core::compile_error!(
            "a Randori plugin must be compiled with panic = \"unwind\": its panics are caught at the boundary"
        );

        /// The plugin's descriptor.
        #[unsafe(export_name = ::core::concat!("randori_plugin_v1_", ::core::env!("CARGO_CRATE_NAME")))]
        pub static PLUGIN: $crate::abi::Plugin = {
            const ITEMS: &[$crate::abi::Item] = &[$($crate::__item!($kind $item)),+];
            $crate::abi::Plugin {
                size: ::core::mem::size_of::<$crate::abi::Plugin>(),
                item_size: ::core::mem::size_of::<$crate::abi::Item>(),
                opt_size: ::core::mem::size_of::<$crate::abi::Opt>(),
                name: $crate::abi::Str::new(::core::env!("CARGO_PKG_NAME")),
                version: $crate::abi::Str::new(::core::env!("CARGO_PKG_VERSION")),
                doc: $crate::abi::Str::new($doc),
                items: ITEMS.as_ptr(),
                n_items: ITEMS.len(),
                sdk: $crate::abi::Str::new($crate::VERSION),
            }
        };
    };
}

/// The descriptor of one item.
#[doc(hidden)]
#[macro_export]
macro_rules! __item {
    (arch $item:ty) => {
        $crate::arch::item::<$item>()
    };
    (dense $item:ty) => {
        $crate::arch::item::<$crate::DecoderOf<$item>>()
    };
    (loss $item:ty) => {
        $crate::loss::item::<$item>()
    };
    (sampler $item:ty) => {
        $crate::sampler::item::<$item>()
    };
}
