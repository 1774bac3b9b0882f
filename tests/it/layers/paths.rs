//! Finds the paths that a source file uses, resolved as far as the layer rule needs.

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// A parsed source file.
pub struct Source {
    /// Its path below `src`.
    pub file: String,
    /// Its module, the root being empty.
    pub module: Vec<String>,
    ast: syn::File,
}

impl Source {
    /// Parses the text of a file whose path is given below `src`.
    pub fn parse(file: &str, text: &str) -> Self {
        let stem = file.strip_suffix(".rs").expect("a Rust file");
        let module = match stem {
            "lib" => Vec::new(),
            _ => stem.split('/').map(str::to_owned).collect(),
        };
        let ast = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        Self { file: file.to_owned(), module, ast }
    }
}

/// A path with its line: `crate::…`, or one whose first segment may be a library.
pub struct Found {
    pub segments: Vec<String>,
    pub line: usize,
}

/// Modules in other files that are declared for tests alone.
pub fn test_only_modules(source: &Source) -> Vec<Vec<String>> {
    let modules = source.ast.items.iter().filter_map(|item| match item {
        syn::Item::Mod(module) if module.content.is_none() && is_test_only(&module.attrs) => {
            Some([source.module.as_slice(), &[module.ident.to_string()]].concat())
        }
        _ => None,
    });
    modules.collect()
}

/// All paths that lead out of the file's own module.
pub fn paths_of(source: &Source) -> Vec<Found> {
    let mut finder = Finder { module: source.module.clone(), found: Vec::new() };
    finder.visit_file(&source.ast);
    finder.found
}

struct Finder {
    module: Vec<String>,
    found: Vec<Found>,
}

impl Finder {
    fn add(&mut self, segments: &[syn::Ident]) {
        let Some(first) = segments.first() else { return };
        let line = first.span().start().line;
        let names: Vec<String> = segments.iter().map(ToString::to_string).collect();
        if let Some(segments) = self.resolve(&names) {
            self.found.push(Found { segments, line });
        }
    }

    /// Makes a path absolute. Paths that go down from their own module stay in its layer, or go to the
    /// right of it, and need no look: they come back as they are, like those into libraries.
    fn resolve(&self, names: &[String]) -> Option<Vec<String>> {
        let in_crate = |base: &[String], rest: &[String]| Some([&["crate".to_owned()], base, rest].concat());
        match names[0].as_str() {
            "crate" => Some(names.to_vec()),
            "aspen" => in_crate(&[], &names[1..]),
            "self" if names.len() > 1 => in_crate(&self.module, &names[1..]),
            "super" => {
                let ups = names.iter().take_while(|name| *name == "super").count();
                let depth = self.module.len().checked_sub(ups).expect("super leads out of the crate");
                // `use super::*` and the like stay in the parent's layer, which owns this module.
                match (depth, &names[ups..]) {
                    (0, []) => in_crate(&[], &[]),
                    (_, rest) => in_crate(&self.module[..depth], rest),
                }
            }
            _ => Some(names.to_vec()),
        }
    }

    fn walk_use(&mut self, prefix: &mut Vec<syn::Ident>, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => {
                prefix.push(path.ident.clone());
                self.walk_use(prefix, &path.tree);
                prefix.pop();
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.walk_use(prefix, tree);
                }
            }
            syn::UseTree::Name(syn::UseName { ident })
            | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
                // `a::{self}` names `a`.
                if ident == "self" && !prefix.is_empty() {
                    self.add(prefix);
                } else {
                    let path = [prefix.as_slice(), std::slice::from_ref(ident)].concat();
                    self.add(&path);
                }
            }
            syn::UseTree::Glob(_) => self.add(prefix),
        }
    }

    /// Paths among a macro's tokens, which are not parsed.
    fn walk_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<syn::Ident> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.finish(&mut path);
                    }
                    path.push(ident);
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => colons += 1,
                TokenTree::Group(group) => {
                    self.finish(&mut path);
                    colons = 0;
                    self.walk_tokens(group.stream());
                }
                _ => {
                    self.finish(&mut path);
                    colons = 0;
                }
            }
        }
        self.finish(&mut path);
    }

    /// A single name in a macro is a variable or a field, not a path.
    fn finish(&mut self, path: &mut Vec<syn::Ident>) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.add(&path);
        }
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_test_only(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test_only(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.walk_use(&mut Vec::new(), &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<syn::Ident> = path.segments.iter().map(|segment| segment.ident.clone()).collect();
        if segments.len() > 1 {
            self.add(&segments);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        self.walk_tokens(mac.tokens.clone());
        visit::visit_macro(self, mac);
    }

    /// `pub(in crate::…)` uses nothing.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    /// Attributes name macros and settings of theirs.
    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
}

/// Whether `#[cfg(test)]`, alone or among others that must hold too, stands before an item.
fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Meta>().is_ok_and(|condition| demands_test(&condition))
    })
}

fn demands_test(condition: &syn::Meta) -> bool {
    use syn::punctuated::Punctuated;
    match condition {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) if list.path.is_ident("all") => list
            .parse_args_with(Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated)
            .is_ok_and(|conditions| conditions.iter().any(demands_test)),
        _ => false,
    }
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::ExternCrate(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Union(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
