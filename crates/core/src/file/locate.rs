//! Finds the place of a key or value in the file, for mistakes that only show after reading.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// The place of every value, by its path: `platform.local.command`, `checks.health[1].path`.
pub(super) struct Places(HashMap<String, (u64, u64)>);

impl Places {
    /// Reads the places; an unreadable file has none.
    pub(super) fn of(source: &str) -> Self {
        let mut places = HashMap::new();
        if let Ok(root) = serde_saphyr::from_str::<Spanned<Node>>(source) {
            collect(&root, String::new(), &mut places);
        }
        Places(places)
    }

    /// Returns line and column of `path`, or of its nearest parent.
    pub(super) fn find(&self, path: &str) -> (u64, u64) {
        let mut path = path;
        loop {
            if let Some(place) = self.0.get(path) {
                return *place;
            }
            match path.rfind(['.', '[']) {
                Some(cut) => path = &path[..cut],
                None => return (1, 1),
            }
        }
    }
}

fn collect(node: &Spanned<Node>, path: String, places: &mut HashMap<String, (u64, u64)>) {
    places.insert(path.clone(), (node.referenced.line(), node.referenced.column()));
    match &node.value {
        Node::Leaf => {}
        Node::List(items) => {
            for (i, item) in items.iter().enumerate() {
                collect(item, format!("{path}[{i}]"), places);
            }
        }
        Node::Map(entries) => {
            for (key, value) in entries {
                let child = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                collect(value, child, places);
            }
        }
    }
}

/// A YAML value, of which only the shape matters.
enum Node {
    Leaf,
    List(Vec<Spanned<Node>>),
    Map(Vec<(String, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;

        macro_rules! leaf {
            ($($visit:ident: $type:ty),*) => {
                $(fn $visit<E>(self, _: $type) -> Result<Node, E> { Ok(Node::Leaf) })*
            };
        }

        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            leaf!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Leaf)
            }

            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Leaf)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Node::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Map(entries))
            }
        }

        deserializer.deserialize_any(NodeVisitor)
    }
}
