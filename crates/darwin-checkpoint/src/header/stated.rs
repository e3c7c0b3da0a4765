//! The entries of a header as they are written, read one after the other: no tree of the whole JSON
//! is built, and of a list that is too long nothing is kept but its length.

use super::MAX_DIMS;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// An entry with its name.
pub(super) struct Given {
    pub(super) name: String,
    pub(super) stated: Loose,
}

/// What an entry must state.
pub(super) struct Stated {
    pub(super) dtype: String,
    pub(super) shape: List,
    pub(super) offsets: [u64; 2],
}

/// A list of whole numbers, of which no more than [`MAX_DIMS`] are kept.
#[derive(Default)]
pub(super) struct List {
    pub(super) numbers: Vec<u64>,
    /// How many the file has.
    pub(super) count: usize,
    /// Whether all are whole numbers from 0.
    whole: bool,
}

/// Any value of JSON, so that one that is wrong does not end the reading of those behind it.
pub(super) enum Loose {
    Entry(Box<Fields>),
    Text(String),
    List(List),
    Whole(u64),
    /// In words.
    Other(&'static str),
}

/// The fields of an object that are those of an entry.
#[derive(Default)]
pub(super) struct Fields {
    dtype: Option<Loose>,
    shape: Option<Loose>,
    offsets: Option<Loose>,
    twice: Option<&'static str>,
}

impl Loose {
    /// What it is in words.
    fn describe(&self) -> String {
        match self {
            Self::Entry(_) => "an object".to_owned(),
            Self::Text(_) => "a text".to_owned(),
            Self::Whole(_) => "a number".to_owned(),
            Self::List(list) if list.whole => format!("a list of {} numbers", list.count),
            Self::List(_) => "a list of more than whole numbers from 0".to_owned(),
            Self::Other(what) => (*what).to_owned(),
        }
    }

    /// The entry that it is, or why it is none.
    pub(super) fn checked(self) -> Result<Stated, String> {
        let malformed = |what: String| format!("its header entry is malformed ({what})");
        let Self::Entry(fields) = self else {
            let found = match &self {
                Self::List(_) => "a list".to_owned(),
                other => other.describe(),
            };
            return Err(malformed(format!("it is {found}, needed is an object")));
        };
        let Fields { dtype, shape, offsets, twice } = *fields;
        if let Some(key) = twice {
            return Err(malformed(format!("`{key}` comes twice")));
        }
        let wrong = |key: &str, found: Option<Self>, needed: &str| {
            malformed(match found {
                Some(found) => format!("`{key}` is {}, needed is {needed}", found.describe()),
                None => format!("it has no `{key}`"),
            })
        };
        let dtype = match dtype {
            Some(Self::Text(dtype)) => dtype,
            found => return Err(wrong("dtype", found, "a text")),
        };
        let shape = match shape {
            Some(Self::List(shape)) if shape.whole => shape,
            found => return Err(wrong("shape", found, "a list of whole numbers")),
        };
        let offsets = match offsets {
            Some(Self::List(List { numbers, count: 2, whole: true })) => [numbers[0], numbers[1]],
            found => return Err(wrong("data_offsets", found, "a list of 2 numbers")),
        };
        Ok(Stated { dtype, shape, offsets })
    }
}

/// Hands every tensor of a header's object to a function, in the order of the file, with names that
/// come twice. A text from the function ends the reading.
pub(super) struct Tensors<F>(pub(super) F);

impl<'de, F: FnMut(Given) -> Result<(), String>> DeserializeSeed<'de> for Tensors<F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(Given) -> Result<(), String>> Visitor<'de> for Tensors<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let stated = map.next_value_seed(Place::Entry)?;
            (self.0)(Given { name, stated }).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// The fields of an entry.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    Dtype,
    Shape,
    DataOffsets,
    #[serde(other)]
    Other,
}

/// Where a value stands. Any value is read anywhere; what is nested deeper than the format has it is
/// passed over.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Entry,
    Field,
    Item,
}

impl<'de> DeserializeSeed<'de> for Place {
    type Value = Loose;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Loose, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place {
    type Value = Loose;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Loose, E> {
        Ok(Loose::Other("true or false"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Loose, E> {
        Ok(Loose::Other("a number"))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Loose, E> {
        Ok(Loose::Whole(number))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Loose, E> {
        Ok(Loose::Other("a number"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Loose, E> {
        Ok(Loose::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Loose, E> {
        Ok(Loose::Other("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Loose, A::Error> {
        let mut list = List { whole: true, ..List::default() };
        if self == Self::Item {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Loose::Other("a list"));
        }
        while let Some(item) = items.next_element_seed(Self::Item)? {
            list.count += 1;
            match item {
                Loose::Whole(number) if list.numbers.len() < MAX_DIMS => list.numbers.push(number),
                Loose::Whole(_) => {}
                _ => list.whole = false,
            }
        }
        Ok(Loose::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose, A::Error> {
        if self != Self::Entry {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Loose::Other("an object"));
        }
        let mut fields = Box::<Fields>::default();
        while let Some(key) = map.next_key()? {
            let (field, name) = match key {
                Key::Dtype => (&mut fields.dtype, "dtype"),
                Key::Shape => (&mut fields.shape, "shape"),
                Key::DataOffsets => (&mut fields.offsets, "data_offsets"),
                Key::Other => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if field.replace(map.next_value_seed(Self::Field)?).is_some() {
                fields.twice = Some(name);
            }
        }
        Ok(Loose::Entry(fields))
    }
}
