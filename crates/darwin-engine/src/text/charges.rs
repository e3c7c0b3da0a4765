//! What a filter or a method may cost, before it runs.

use super::budget::{Budget, shallow};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, Value};

/// Bytes of a value in a list.
pub(super) const ITEM: u64 = 32;

/// Filters that compare all that they are given with each other.
const SORTING: [&str; 6] = ["sort", "unique", "dictsort", "groupby", "min", "max"];

/// Steps to a place in a value: none in lists.
pub(super) fn walked(value: &Value) -> u64 {
    match value.kind() {
        ValueKind::String => ITEM + shallow(value),
        ValueKind::Iterable => (value.len().unwrap_or(1 << 16) as u64).saturating_mul(ITEM),
        _ => ITEM,
    }
}

/// Charges a filter or method for its arguments, and for what it makes of them.
pub(super) fn charge(budget: &Budget, name: &str, all: &[Value], light: bool) -> Result<(), Error> {
    let Some(value) = all.first() else { return Ok(()) };
    if light {
        return budget.look(ITEM);
    }
    let length = shallow(value);
    if matches!(name, "length" | "count") && all.len() == 1 {
        return budget.look(walked(value));
    }
    let mut size = 0u64;
    for argument in all {
        size = size.saturating_add(budget.size(argument)?);
    }
    budget.look(size.saturating_mul(if SORTING.contains(&name) { 20 } else { 1 }))?;
    let text = value.as_str().unwrap_or_default();
    let given = |i: usize| all.get(i).and_then(Value::as_str);
    let found = |what: Option<&str>| match what {
        Some("") => length + 1,
        Some(what) => text.matches(what).count() as u64,
        None => text.split_whitespace().count() as u64,
    };
    let number = |i: usize, key: &str| -> u64 {
        let named = all.last().filter(|last| last.is_kwargs());
        let named = named.and_then(|last| Kwargs::try_from(last.clone()).ok());
        let named = named.and_then(|named| named.peek::<Value>(key).ok());
        let value = named.or_else(|| all.get(i).cloned()).unwrap_or_default();
        value.as_i64().map_or(0, |n| n.max(0) as u64)
    };
    let items = || value.len().unwrap_or(0) as u64;
    let made = match name {
        "batch" => (2 * ITEM * items()).saturating_add(ITEM.saturating_mul(number(1, "linecount"))),
        "slice" => (ITEM * items()).saturating_add((3 * ITEM).saturating_mul(number(1, "slices"))),
        "indent" => {
            let lines = text.matches('\n').count() as u64 + 2;
            length.saturating_add(lines.saturating_mul(number(1, "width").max(4)))
        }
        "format" => length.saturating_add(formatted(text, all, size)),
        "replace" => {
            let to = given(2).map_or(0, |to| to.len() as u64);
            length.saturating_add(found(given(1)).saturating_mul(to))
        }
        "join" => {
            // the filter joins its value, the method its argument
            let joiner = length.max(all.get(1).map_or(0, shallow));
            let count = |v: &Value| v.len().unwrap_or(1) as u64;
            let joins = count(value).max(all.get(1).map_or(0, count));
            size.saturating_mul(6).saturating_add(joins.saturating_mul(joiner))
        }
        "split" => length + (2 * ITEM).saturating_mul(found(given(1)) + 1),
        "lines" | "splitlines" => length + 2 * ITEM * (text.matches('\n').count() as u64 + 1),
        "list" | "reverse" | "sort" | "unique" | "select" | "reject" | "map" => {
            ITEM + ITEM * length
        }
        "strip" | "lstrip" | "rstrip" | "trim" => {
            budget.look(length.saturating_mul(given(1).map_or(1, |set| set.len() as u64)))?;
            length
        }
        "escape" | "e" => size.saturating_mul(6),
        "upper" | "lower" | "title" | "capitalize" => size.saturating_mul(3),
        "tojson" | "string" | "pprint" => length,
        "startswith" | "endswith" | "find" | "rfind" | "count" | "first" | "last" | "attr" => ITEM,
        _ => length,
    };
    budget.make(made)
}

/// Most bytes that a format adds: its widths, and each place filled with all that is given.
fn formatted(text: &str, all: &[Value], size: u64) -> u64 {
    let mut widths = 0u64;
    for digits in text.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty()) {
        widths = widths.saturating_add(digits.parse().unwrap_or(u64::MAX));
    }
    let nested = text.split('{').skip(1).any(|part| part.is_empty() || part.ends_with(':'));
    if text.contains('*') || nested {
        // widths that are arguments
        for argument in all {
            let width = argument.as_i64().map_or(0, |n| n.max(0) as u64);
            widths = widths.saturating_add(width.saturating_mul(text.len() as u64));
        }
    }
    let places = text.matches(['%', '{']).count() as u64;
    widths.saturating_add(places.saturating_mul(size).saturating_mul(6))
}
