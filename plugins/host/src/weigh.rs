//! Counts what a component is made of before the compiler sees it: the compiler's time grows with
//! the code, and faster than one function's size.

use wasmparser::{Instance, Parser, Payload};

use crate::engine::{CORE_INSTANCES_MAX, MEMORIES_MAX, TABLES_MAX};
use crate::error::LoadError;
use crate::inspect;

/// Functions of one plugin, at most.
const FUNCTIONS_MAX: u64 = 50_000;

/// The code of one function, in bytes, at most.
const FUNCTION_BYTES_MAX: u64 = 512 << 10;

/// All code of one plugin, in bytes, at most.
const CODE_BYTES_MAX: u64 = 16 << 20;

/// What a component has, in all of its modules.
#[derive(Debug, Default)]
struct Weight {
    functions: u64,
    code_bytes: u64,
    function_bytes: u64,
    instances: u64,
    memories: u64,
    tables: u64,
}

/// Refuses what would take the compiler too long, or what no place of the pool has room for.
pub(crate) fn check(component: &[u8]) -> Result<(), LoadError> {
    let weight =
        weigh(component).map_err(|error| LoadError::NotAPlugin(inspect::explain(&error)))?;
    for (what, has, max) in [
        ("functions", weight.functions, FUNCTIONS_MAX),
        ("bytes of code", weight.code_bytes, CODE_BYTES_MAX),
        ("bytes in one function", weight.function_bytes, FUNCTION_BYTES_MAX),
        ("core instances", weight.instances, CORE_INSTANCES_MAX.into()),
        ("memories", weight.memories, MEMORIES_MAX.into()),
        ("tables", weight.tables, TABLES_MAX.into()),
    ] {
        if has > max {
            return Err(LoadError::TooMuch(format!(
                "it has {has} {what}; at most {max} are taken"
            )));
        }
    }
    Ok(())
}

fn weigh(component: &[u8]) -> wasmparser::Result<Weight> {
    let mut weight = Weight::default();
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::CodeSectionStart { count, size, .. } => {
                weight.functions = weight.functions.saturating_add(count.into());
                weight.code_bytes = weight.code_bytes.saturating_add(size.into());
            }
            Payload::CodeSectionEntry(body) => {
                let bytes = body.range().len() as u64;
                weight.function_bytes = weight.function_bytes.max(bytes);
            }
            Payload::MemorySection(section) => weight.memories += u64::from(section.count()),
            Payload::TableSection(section) => weight.tables += u64::from(section.count()),
            Payload::InstanceSection(section) => {
                for instance in section {
                    weight.instances +=
                        u64::from(matches!(instance?, Instance::Instantiate { .. }));
                }
            }
            _ => {}
        }
    }
    Ok(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let component = wat::parse_str(text).expect("well written");
        check(&component).expect_err("too much").to_string()
    }

    #[test]
    fn a_bomb_is_not_compiled() {
        let functions = "(func)".repeat(50_001);
        let text = refused(&format!("(component (core module {functions}))"));
        assert!(text.contains("50001 functions"), "{text}");
        // Two modules count together.
        let functions = "(func)".repeat(25_001);
        let module = format!("(core module {functions})");
        assert!(
            refused(&format!("(component {module} (component {module}))")).contains("functions")
        );
        let long = "(drop (i32.const 0))".repeat((512 << 10) / 3 + 1);
        let text = refused(&format!("(component (core module (func {long})))"));
        assert!(text.contains("in one function"), "{text}");
    }

    #[test]
    fn parts_have_a_place_in_the_pool() {
        for (module, instances, what) in [
            ("", 17, "17 core instances"),
            ("(memory 1)", 1, ""),
            (&"(memory 1)".repeat(5), 1, "5 memories"),
            (&"(table 1 funcref)".repeat(5), 1, "5 tables"),
        ] {
            let instances = "(core instance (instantiate $m))".repeat(instances);
            let text = format!("(component (core module $m {module}) {instances})");
            if what.is_empty() {
                let component = wat::parse_str(text).expect("well written");
                check(&component).expect("it is not too much");
            } else {
                assert!(refused(&text).contains(what), "{what}");
            }
        }
    }
}
