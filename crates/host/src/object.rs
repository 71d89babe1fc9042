//! An object created by a plugin, with its functions; destroyed on drop.

use std::ffi::c_void;

use randori_sdk::{abi, seam::Value};

use crate::{Error, ItemInfo, Result, info::Functions, sink::Complaint};

/// Created by an item's `create`, freed by its `destroy`.
pub(crate) struct Object {
    pub this: *mut c_void,
    pub functions: Functions,
    pub name: String,
}

// SAFETY: the ABI asks that an object's functions may be called from any thread, also at once.
unsafe impl Send for Object {}
// SAFETY: as above.
unsafe impl Sync for Object {}

impl Object {
    /// Creates an object from checked option values and, for an architecture, the configuration's
    /// JSON.
    pub(crate) fn new(
        item: &ItemInfo,
        functions: Functions,
        values: &[Value],
        config: &str,
    ) -> Result<Self> {
        let args: Vec<abi::Value> = values.iter().map(argument).collect();
        let complaint = Complaint::default();
        // SAFETY: arguments, configuration and sink live during the call.
        let this = unsafe {
            (functions.create)(
                args.as_ptr(),
                args.len(),
                abi::Str::new(config),
                complaint.sink(),
            )
        };
        if this.is_null() {
            let (kind, name) = (item.kind, &item.name);
            return Err(Error::Rule(format!("{kind} {name}: {}", complaint.text())));
        }
        Ok(Object {
            this,
            functions,
            name: item.name.clone(),
        })
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: `create` made it, and nobody else frees it.
        unsafe { (self.functions.destroy)(self.this) }
    }
}

fn argument(value: &Value) -> abi::Value {
    match value {
        Value::Float(x) => abi::Value::float(*x),
        Value::Int(n) => abi::Value::int(*n),
        Value::Bool(b) => abi::Value::bool(*b),
        Value::Str(text) => abi::Value::text(text),
    }
}
