//! minijinja's functions, filters and tests within a [`Budget`]: each is charged for what it is
//! given before it runs, and for what it makes.

use super::budget::{Budget, own_parts, shallow};
use super::charges::{ITEM, charge, walked};
use super::python;
use super::rewrite::names;
use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters, functions, tests};
use minijinja_contrib::pycompat;

/// Filters that look at the outside of what they are given.
const LIGHT: [&str; 6] = ["default", "d", "first", "safe", "bool", "items"];

/// Tests that look at the outside of a value.
const LIGHT_TESTS: [&str; 14] = [
    "undefined",
    "defined",
    "none",
    "safe",
    "escaped",
    "boolean",
    "odd",
    "even",
    "integer",
    "int",
    "float",
    "string",
    "mapping",
    "true",
];

/// Everything that templates may call.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    add_filters(environment);
    add_tests(environment);
    add_functions(environment);
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|out, state, value| {
        let budget = Budget::of(state);
        if let Some(text) = value.as_str() {
            budget.make(text.len() as u64)?;
            return out.write_str(text).map_err(Error::from);
        }
        let text = python::str(value, budget.left())?;
        budget.make(text.len() as u64)?;
        out.write_str(&text).map_err(Error::from)
    });
}

fn add_filters(environment: &mut Environment<'static>) {
    let escape = Value::from_function(filters::escape);
    let default = Value::from_function(filters::default);
    let length = Value::from_function(|value: &Value| match value.is_undefined() {
        true => Ok(0),
        false => filters::length(value),
    });
    let tojson = Value::from_function(|state: &State<'_, '_>, arguments: Rest<Value>| {
        let mut arguments = arguments.0;
        if arguments.is_empty() {
            return Err(Error::from(ErrorKind::MissingArgument));
        }
        let value = arguments.remove(0);
        python::tojson(&value, arguments, Budget::of(state).left())
    });
    let string = Value::from_function(|state: &State<'_, '_>, value: Value| {
        python::str(&value, Budget::of(state).left())
    });
    let filters = [
        ("tojson", tojson),
        ("string", string.clone()),
        ("pprint", string),
        ("length", length.clone()),
        ("count", length),
        ("safe", Value::from_function(filters::safe)),
        ("escape", escape.clone()),
        ("e", escape),
        ("lower", Value::from_function(filters::lower)),
        ("upper", Value::from_function(filters::upper)),
        ("title", Value::from_function(filters::title)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("replace", Value::from_function(filters::replace)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("items", Value::from_function(filters::items)),
        ("reverse", Value::from_function(filters::reverse)),
        ("trim", Value::from_function(filters::trim)),
        ("join", Value::from_function(filters::join)),
        ("split", Value::from_function(filters::split)),
        ("lines", Value::from_function(filters::lines)),
        ("default", default.clone()),
        ("d", default),
        ("round", Value::from_function(filters::round)),
        ("abs", Value::from_function(filters::abs)),
        ("int", Value::from_function(filters::int)),
        ("float", Value::from_function(filters::float)),
        ("attr", Value::from_function(filters::attr)),
        ("first", Value::from_function(filters::first)),
        ("last", Value::from_function(filters::last)),
        ("min", Value::from_function(filters::min)),
        ("max", Value::from_function(filters::max)),
        ("sort", Value::from_function(filters::sort)),
        ("list", Value::from_function(filters::list)),
        ("bool", Value::from_function(filters::bool)),
        ("batch", Value::from_function(filters::batch)),
        ("slice", Value::from_function(filters::slice)),
        ("sum", Value::from_function(filters::sum)),
        ("indent", Value::from_function(filters::indent)),
        ("select", Value::from_function(filters::select)),
        ("reject", Value::from_function(filters::reject)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("map", Value::from_function(filters::map)),
        ("groupby", Value::from_function(filters::groupby)),
        ("unique", Value::from_function(filters::unique)),
        ("chain", Value::from_function(filters::chain)),
        ("zip", Value::from_function(filters::zip)),
        ("format", Value::from_function(filters::format)),
    ];
    for (name, filter) in filters {
        environment.add_filter(name, move |state: &State<'_, '_>, arguments: Rest<Value>| {
            let budget = Budget::of(state);
            charge(&budget, name, &arguments, LIGHT.contains(&name))?;
            let made = filter.call(state, &arguments)?;
            kept(&budget, made, name == "items")
        });
    }
}

fn add_tests(environment: &mut Environment<'static>) {
    let eq = Value::from_function(tests::is_eq);
    let ne = Value::from_function(tests::is_ne);
    let (lt, le) = (Value::from_function(tests::is_lt), Value::from_function(tests::is_le));
    let (gt, ge) = (Value::from_function(tests::is_gt), Value::from_function(tests::is_ge));
    let safe = Value::from_function(tests::is_safe);
    let integer = Value::from_function(tests::is_integer);
    let tests = [
        ("undefined", Value::from_function(tests::is_undefined)),
        ("defined", Value::from_function(tests::is_defined)),
        ("none", Value::from_function(tests::is_none)),
        ("safe", safe.clone()),
        ("escaped", safe),
        ("boolean", Value::from_function(tests::is_boolean)),
        ("odd", Value::from_function(tests::is_odd)),
        ("even", Value::from_function(tests::is_even)),
        ("divisibleby", Value::from_function(tests::is_divisibleby)),
        ("integer", integer.clone()),
        ("int", integer),
        ("float", Value::from_function(tests::is_float)),
        ("string", Value::from_function(tests::is_string)),
        ("mapping", Value::from_function(tests::is_mapping)),
        ("startingwith", Value::from_function(tests::is_startingwith)),
        ("endingwith", Value::from_function(tests::is_endingwith)),
        ("lower", Value::from_function(tests::is_lower)),
        ("upper", Value::from_function(tests::is_upper)),
        ("sameas", Value::from_function(tests::is_sameas)),
        ("eq", eq.clone()),
        ("equalto", eq.clone()),
        ("==", eq),
        ("ne", ne.clone()),
        ("!=", ne),
        ("lt", lt.clone()),
        ("lessthan", lt.clone()),
        ("<", lt),
        ("le", le.clone()),
        ("<=", le),
        ("gt", gt.clone()),
        ("greaterthan", gt.clone()),
        (">", gt),
        ("ge", ge.clone()),
        (">=", ge),
        ("in", Value::from_function(tests::is_in)),
        ("true", Value::from_function(tests::is_true)),
        ("false", Value::from_function(tests::is_false)),
        ("filter", Value::from_function(tests::is_filter)),
        ("test", Value::from_function(tests::is_test)),
    ];
    for (name, test) in tests {
        environment.add_test(name, move |state: &State<'_, '_>, arguments: Rest<Value>| {
            let budget = Budget::of(state);
            if !LIGHT_TESTS.contains(&name) {
                for argument in arguments.iter() {
                    budget.look(budget.size(argument)?)?;
                }
            }
            test.call(state, &arguments).map(|answer| answer.is_true())
        });
    }
    environment.add_test("iterable", |value: Value| python::is_iterable(&value));
    environment.add_test("sequence", |value: Value| python::is_sequence(&value));
    environment.add_test("number", |value: Value| python::is_number(&value));
}

fn add_functions(environment: &mut Environment<'static>) {
    environment.add_function("range", |from: isize, to: Option<isize>, step: Option<isize>| {
        functions::range(from, to, step.map(|step| step.max(-isize::MAX)))
    });
    let functions = [
        ("dict", Value::from_function(functions::dict)),
        ("namespace", Value::from_function(functions::namespace)),
    ];
    for (name, function) in functions {
        environment.add_function(name, move |state: &State<'_, '_>, arguments: Rest<Value>| {
            let budget = Budget::of(state);
            for argument in arguments.iter() {
                budget.make(budget.size_without_namespace(argument)?)?;
            }
            function.call(state, &arguments)
        });
    }
    environment.add_function("raise_exception", |why: String| -> Result<String, _> {
        Err(Error::new(ErrorKind::InvalidOperation, why))
    });
    let plain = |name, charge: fn(&Budget, &Value) -> Result<(), Error>| {
        move |environment: &mut Environment<'static>| {
            let guard = move |state: &State<'_, '_>, value: Value| -> Result<Value, Error> {
                charge(&Budget::of(state), &value)?;
                Ok(value)
            };
            environment.add_function(name, guard);
        }
    };
    plain(names::CAT, |budget, value| budget.make(printed(budget, value)?))(environment);
    plain(names::COMPARE, |budget, value| budget.look(budget.size(value)?))(environment);
    plain(names::WITHIN, |budget, value| match value.kind() {
        ValueKind::Map => budget.look(ITEM),
        _ => budget.look(budget.size(value)?),
    })(environment);
    plain(names::AT, |budget, value| budget.look(walked(value)))(environment);
    plain(names::CUT, |budget, value| {
        budget.look(walked(value))?;
        budget.make(ITEM + shallow(value))
    })(environment);
    plain(names::EACH, |budget, value| budget.look(walked(value)))(environment);
    plain(names::KEY, |_, value| match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map | ValueKind::Plain => {
            let reason = format!("a {} cannot be a key", value.kind());
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        }
        _ => Ok(()),
    })(environment);
    plain(names::LIST, |budget, value| {
        budget.size(value)?;
        budget.make(own_parts(value))
    })(environment);
    environment.add_function(names::ALL, |state: &State<'_, '_>, values: Rest<Value>| {
        let budget = Budget::of(state);
        for value in values.iter() {
            budget.look(budget.size(value)?)?;
        }
        Ok::<Value, Error>(Value::from(values.0))
    });
    environment.add_function(names::SET, |state: &State<'_, '_>, value: Value| {
        let budget = Budget::of(state);
        budget.size(&value)?;
        kept(&budget, value, false)
    });
    environment.add_function(names::SET_ATTRIBUTE, |state: &State<'_, '_>, value: Value| {
        let budget = Budget::of(state);
        budget.size_without_namespace(&value)?;
        kept(&budget, value, false)
    });
    environment.add_function(names::TIMES, times);
}

/// What is kept for longer: views of other values, which could be views of views without end,
/// become lists.
fn kept(budget: &Budget, value: Value, as_it_is: bool) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Iterable if !as_it_is => {
            let mut items = Vec::new();
            for item in value.try_iter()? {
                budget.make(ITEM)?;
                items.push(item);
            }
            Ok(Value::from(items))
        }
        ValueKind::String => {
            budget.make(ITEM)?;
            Ok(value)
        }
        _ => {
            budget.make(own_parts(&value))?;
            Ok(value)
        }
    }
}

/// Most bytes of the value as text: strings within others have quotes and escapes.
fn printed(budget: &Budget, value: &Value) -> Result<u64, Error> {
    match value.as_str() {
        Some(text) => Ok(ITEM.saturating_add(text.len() as u64)),
        None => Ok(budget.size(value)?.saturating_mul(6)),
    }
}

/// `a * b`
fn times(state: &State<'_, '_>, a: Value, b: Value) -> Result<Value, Error> {
    let budget = Budget::of(state);
    let repeated = |value: &Value| {
        matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Iterable)
    };
    let (what, count) = if repeated(&a) { (&a, &b) } else { (&b, &a) };
    if repeated(what) && (count.is_integer() || count.kind() == ValueKind::Bool) {
        let count = i128::try_from(count.clone()).unwrap_or(0).max(0);
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        if let Some(text) = what.as_str() {
            budget.make((text.len() as u64).saturating_mul(count))?;
            return Ok(Value::from(text.repeat(count as usize)));
        }
        let items: Vec<Value> = what.try_iter()?.collect();
        budget.make(ITEM.saturating_mul(items.len() as u64).saturating_mul(count))?;
        let count = if items.is_empty() { 0 } else { count };
        let all = (0..count).flat_map(|_| items.iter().cloned());
        return Ok(Value::from(all.collect::<Vec<_>>()));
    }
    let number = |v: &Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool);
    if number(&a) && number(&b) {
        let whole = |v: &Value| v.is_integer() || v.kind() == ValueKind::Bool;
        if whole(&a) && whole(&b) {
            let product = i128::try_from(a.clone())?.checked_mul(i128::try_from(b.clone())?);
            if let Some(product) = product {
                return Ok(i64::try_from(product).map_or_else(|_| product.into(), Value::from));
            }
        } else {
            return Ok(Value::from(f64::try_from(a)? * f64::try_from(b)?));
        }
    }
    let reason = format!("cannot multiply {} with {}", a.kind(), b.kind());
    Err(Error::new(ErrorKind::InvalidOperation, reason))
}

/// A method of Python's strings, mappings and lists.
fn method(
    state: &State<'_, '_>,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let budget = Budget::of(state);
    let mut all = Vec::with_capacity(arguments.len() + 1);
    all.push(value.clone());
    all.extend_from_slice(arguments);
    let light = value.kind() == ValueKind::Map;
    if light {
        arguments.iter().try_for_each(|argument| budget.size(argument).map(drop))?;
    }
    charge(&budget, name, &all, light)?;
    // minijinja-contrib looks for nothing without end
    if let ("count", Some(text), Some("")) =
        (name, value.as_str(), arguments.first().and_then(Value::as_str))
    {
        return Ok(Value::from(text.chars().count() + 1));
    }
    let made = pycompat::unknown_method_callback(state, value, name, arguments)?;
    kept(&budget, made, light)
}
