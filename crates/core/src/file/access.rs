//! The parts of lists, mappings and choices, as serde asks for them; each passes on its place.

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};

use super::decode::placed;
use super::misfit::{Misfit, MisfitKind};
use super::tree::{Entry, Node, Scalar, Value, short};

pub(super) struct Items<'de>(pub(super) std::slice::Iter<'de, Node>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Misfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Misfit> {
        self.0.next().map(|item| placed(item, seed.deserialize(item))).transpose()
    }
}

pub(super) struct Entries<'de> {
    pub(super) rest: std::slice::Iter<'de, Entry>,
    pub(super) now: Option<&'de Entry>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Misfit> {
        self.now = self.rest.next();
        let Some(entry) = self.now else { return Ok(None) };
        let key: de::value::BorrowedStrDeserializer<'de, Misfit> =
            de::value::BorrowedStrDeserializer::new(&entry.key);
        seed.deserialize(key).map(Some).map_err(|misfit| misfit.at(entry.place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        match self.now {
            Some(entry) => placed(&entry.value, seed.deserialize(&entry.value)),
            None => Err(Misfit::value("a value is missing here", "")),
        }
    }
}

/// One of several: `blue_green: {}` with its settings, or a word alone.
pub(super) struct Choice<'de> {
    pub(super) node: &'de Node,
    pub(super) entry: Option<&'de Entry>,
}

impl<'de> EnumAccess<'de> for Choice<'de> {
    type Error = Misfit;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Misfit> {
        let (name, place) = match (self.entry, &self.node.value) {
            (Some(entry), _) => (entry.key.as_str(), entry.place),
            (None, Value::Scalar(scalar)) => (scalar.text.as_str(), self.node.place),
            (None, _) => ("", self.node.place),
        };
        let variant: de::value::StrDeserializer<'_, Misfit> = name.into_deserializer();
        let found = seed.deserialize(variant).map_err(|mut misfit| {
            if self.entry.is_some() {
                misfit.kind = MisfitKind::Key;
                misfit.what = misfit.what.replace("unknown value", "unknown key");
            }
            misfit.at(place)
        })?;
        Ok((found, self))
    }
}

impl<'de> Choice<'de> {
    fn content(&self) -> Result<&'de Node, Misfit> {
        self.entry.map(|entry| &entry.value).ok_or_else(|| {
            let Value::Scalar(Scalar { text, .. }) = &self.node.value else {
                return Misfit::value("a value is missing here", "").at(self.node.place);
            };
            let text = short(text);
            Misfit::value(format!("`{text}` needs braces here"), format!("write `{{{text}: {{…}}}}` with its keys in the inner braces, or `{{{text}: {{}}}}` without any"))
                .at(self.node.place)
        })
    }
}

impl<'de> VariantAccess<'de> for Choice<'de> {
    type Error = Misfit;

    fn unit_variant(self) -> Result<(), Misfit> {
        match self.entry {
            None => Ok(()),
            Some(entry) => {
                let what = format!("`{}` stands alone here, without a colon", short(&entry.key));
                Err(Misfit::value(what, "remove the colon and what follows").at(self.node.place))
            }
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Misfit> {
        let content = self.content()?;
        placed(content, seed.deserialize(content))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Misfit> {
        self.content()?.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.content()?.deserialize_map(visitor)
    }
}
