//! Says how a guest broke, from what wasmtime reports.

use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};

use crate::error::{CallError, TrapKind};
use crate::memory::Refused;

/// A backtrace, in bytes, at most: names of functions are the guest's to choose.
const BACKTRACE_BYTES_MAX: usize = 8 << 10;

/// What wasmtime says when a guest hands over too much. It has no type for it; a test of hostile
/// guests holds us to the text.
const TOO_MANY_BYTES: &str = "fuel allocated for hostcalls has been exhausted";

/// What wasmtime's messages about handles have in common; the same test holds us to it.
const HANDLES: [&str; 2] = ["handle", "resource"];

pub(crate) fn explain(error: &wasmtime::Error) -> CallError {
    if let Some(refused) = error.downcast_ref::<Refused>() {
        return match refused {
            Refused::Mount => CallError::Memory,
            Refused::Budget => CallError::Busy,
        };
    }
    if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        return CallError::Busy;
    }
    let backtrace = backtrace(error);
    if let Some(trap) = error.downcast_ref::<Trap>() {
        if *trap == Trap::Interrupt {
            tracing::debug!(backtrace, "a plugin did not answer in time");
            return CallError::Deadline;
        }
        return CallError::Trap { kind: kind(*trap), backtrace };
    }
    if error.downcast_ref::<ResourceTableError>().is_some() {
        return CallError::Trap { kind: TrapKind::Handle, backtrace };
    }
    let text = format!("{:#}", error.root_cause());
    if text.contains(TOO_MANY_BYTES) {
        return CallError::HostBytes;
    }
    let kind = if HANDLES.iter().any(|word| text.contains(word)) {
        TrapKind::Handle
    } else {
        TrapKind::Protocol
    };
    let backtrace = bounded(&format!("{text}\n{backtrace}"));
    CallError::Trap { kind, backtrace }
}

const fn kind(trap: Trap) -> TrapKind {
    match trap {
        Trap::UnreachableCodeReached => TrapKind::Unreachable,
        Trap::MemoryOutOfBounds | Trap::TableOutOfBounds | Trap::HeapMisaligned => {
            TrapKind::OutOfBounds
        }
        Trap::IntegerOverflow | Trap::IntegerDivisionByZero | Trap::BadConversionToInteger => {
            TrapKind::Arithmetic
        }
        Trap::IndirectCallToNull | Trap::BadSignature | Trap::NullReference => {
            TrapKind::IndirectCall
        }
        Trap::StackOverflow => TrapKind::StackOverflow,
        _ => TrapKind::Protocol,
    }
}

fn backtrace(error: &wasmtime::Error) -> String {
    error
        .downcast_ref::<WasmBacktrace>()
        .map_or_else(String::new, |trace| bounded(&trace.to_string()))
}

fn bounded(text: &str) -> String {
    let mut kept = String::new();
    for c in text.trim_end().chars() {
        if kept.len() + c.len_utf8() > BACKTRACE_BYTES_MAX {
            break;
        }
        kept.push(if c.is_control() && c != '\n' { ' ' } else { c });
    }
    kept
}
