//! Says how a guest broke, from what wasmtime reports.

use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};

use crate::error::{CallError, TrapKind};
use crate::memory::Refused;
use crate::visible::Bounded;

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
    if let Some(trap) = error.downcast_ref::<Trap>() {
        if *trap == Trap::Interrupt {
            // It is many calls that end like this on a busy machine, and names take their time.
            if tracing::enabled!(tracing::Level::DEBUG) {
                let backtrace = backtrace(error);
                tracing::debug!(backtrace, "a plugin did not answer in time");
            }
            return CallError::Deadline;
        }
        return CallError::Trap { kind: kind(*trap), backtrace: backtrace(error) };
    }
    if error.downcast_ref::<ResourceTableError>().is_some() {
        return CallError::Trap { kind: TrapKind::Handle, backtrace: backtrace(error) };
    }
    let text = Bounded::of(error.root_cause(), BACKTRACE_BYTES_MAX);
    if text.contains(TOO_MANY_BYTES) {
        return CallError::HostBytes;
    }
    let kind = if HANDLES.iter().any(|word| text.contains(word)) {
        TrapKind::Handle
    } else {
        TrapKind::Protocol
    };
    let backtrace = bounded(format_args!("{text}\n{}", backtrace(error)));
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
    error.downcast_ref::<WasmBacktrace>().map_or_else(String::new, bounded)
}

/// Cut while it is written: names of functions are the guest's to choose, and so is their length.
fn bounded(text: impl std::fmt::Display) -> String {
    let mut kept = Bounded::of(text, BACKTRACE_BYTES_MAX);
    kept.truncate(kept.trim_end().len());
    kept
}
