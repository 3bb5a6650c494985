//! An interpreter for the part of Python's pickle language that model files need. It can build plain data, storages and tensors and
//! nothing else: a global it does not know becomes an opaque value, and nothing is ever called. A pickle that names what would run code is
//! refused as a whole (`code`).
//!
//! Objects live in one arena and refer to each other by index: a pickle that refers to itself, or nests a million deep, costs no stack and
//! is freed like any other. Every opcode makes at most a few objects, and what one opcode can copy (names, sides of tensors, pairs) is
//! counted: memory is bounded by the `MAX_` numbers here, some 300 MB, and time by the length of the pickle.

mod calls;
mod code;

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};

use crate::sd::checkpoint::shown::shown;
use crate::sd::checkpoint::tensor::Dtype;

/// Enough for a checkpoint with optimiser state, at some 40 objects a tensor.
const MAX_OBJECTS: usize = 2_000_000;

/// Letters of modules and names that are put together from texts: one of a program's classes has some 60.
const MAX_GLOBAL_LETTERS: usize = 8 << 20;

/// Sides of all tensors together. One has four.
const MAX_SIDES: usize = 2_000_000;

/// An index into `Pickle::objects`.
pub(super) type Id = u32;

/// What a pickle can hold.
#[derive(Clone, Debug)]
pub(super) enum Object {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// In the order of insertion; the last of equal keys counts.
    Dict(Vec<(Id, Id)>),
    /// `module name`, as the pickle gives it. Never imported.
    Global(Rc<str>),
    Storage(StorageRef),
    Tensor(Rc<TensorRef>),
    /// Something this program does not build: what it was made by.
    Opaque(Rc<str>),
}

/// A storage by its key in the archive.
#[derive(Clone, Debug)]
pub(super) struct StorageRef {
    pub(super) dtype: Dtype,
    pub(super) key: Rc<str>,
    /// In elements of `dtype`.
    pub(super) elements: u64,
}

/// A view of a storage.
#[derive(Clone, Debug)]
pub(super) struct TensorRef {
    pub(super) storage: StorageRef,
    /// Of its elements; a storage without a type of its own says `U8`.
    pub(super) dtype: Dtype,
    /// In elements.
    pub(super) offset: u64,
    pub(super) shape: Vec<u64>,
    /// In elements, one per side.
    pub(super) strides: Vec<u64>,
}

/// The objects of one pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    objects: Vec<Object>,
    pub(super) root: Id,
    /// The bytes the pickle took.
    pub(super) length: usize,
    /// Calls of what is not built here, by what was called: `module name`.
    pub(super) strangers: BTreeMap<Rc<str>, usize>,
    /// Storages of types that are not read, by key: the type.
    pub(super) foreign: HashMap<Rc<str>, Rc<str>>,
}

impl Pickle {
    /// Runs the pickle at the start of `bytes`.
    ///
    /// # Errors
    /// If it carries code, is cut short, pops what is not there, uses an opcode unknown to Python, or makes more than a model could need.
    pub(super) fn run(bytes: &[u8]) -> Result<Self> {
        let mut machine = Machine { bytes, ..Machine::default() };
        let ended = machine.run();
        if let Some(code) = machine.code {
            bail!("this file carries code: its pickle names `{code}`, which weights do not need; get the model as safetensors");
        }
        let root = ended.with_context(|| format!("the pickle is not valid at byte {}", machine.at))?;
        let (strangers, foreign) = (machine.strangers, machine.foreign);
        Ok(Self { objects: machine.objects, root, length: machine.at, strangers, foreign })
    }

    pub(super) fn get(&self, id: Id) -> &Object {
        &self.objects[id as usize]
    }

    /// Every storage that was named, also by values that could not be built.
    pub(super) fn storages(&self) -> impl Iterator<Item = &StorageRef> {
        self.objects.iter().filter_map(|object| match object {
            Object::Storage(storage) => Some(storage),
            _ => None,
        })
    }

    pub(super) fn text(&self, id: Id) -> Option<&Rc<str>> {
        match self.get(id) {
            Object::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn int(&self, id: Id) -> Option<i64> {
        match self.get(id) {
            Object::Int(value) => Some(*value),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    objects: Vec<Object>,
    stack: Vec<Id>,
    /// Heights of the stack at open marks.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    /// Pairs that calls have copied out of lists.
    copied: usize,
    /// Letters of globals that were put together from texts.
    global_letters: usize,
    /// Of all tensors.
    sides: usize,
    strangers: BTreeMap<Rc<str>, usize>,
    foreign: HashMap<Rc<str>, Rc<str>>,
    /// The first global that stands for code.
    code: Option<String>,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Id> {
        loop {
            let opcode = self.byte()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            0x80 => drop(self.byte()?),  // PROTO
            0x95 => drop(self.take(8)?), // FRAME: the objects follow in line
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),      // POP
            b'1' => drop(self.pop_mark()?), // POP_MARK
            b'2' => {
                let top = *self.stack.last().context("DUP on an empty stack")?;
                self.stack.push(top);
            }

            b'N' => self.push(Object::None)?,
            0x88 => self.push(Object::Bool(true))?,
            0x89 => self.push(Object::Bool(false))?,
            b'I' => self.decimal_int()?,
            b'L' => {
                let line = self.line()?.trim_end_matches('L').to_string();
                self.push_int(line.parse().ok())?;
            }
            b'F' => {
                let value = self.line()?.parse().context("FLOAT is no number")?;
                self.push(Object::Float(value))?;
            }
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Object::Int(i64::from(value)))?;
            }
            b'K' => {
                let value = self.byte()?;
                self.push(Object::Int(i64::from(value)))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Object::Int(i64::from(value)))?;
            }
            0x8a => {
                let length = usize::from(self.byte()?);
                self.long(length)?;
            }
            0x8b => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                self.long(length)?;
            }
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Object::Float(value))?;
            }

            b'S' => {
                let line = self.line()?;
                let text = line.trim_matches(['\'', '"']).to_string();
                self.push(Object::Text(text.into()))?;
            }
            b'V' => {
                let text = self.line()?.to_string();
                self.push(Object::Text(text.into()))?;
            }
            b'X' | b'T' => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                self.push_text(length)?;
            }
            0x8c | b'U' => {
                let length = usize::from(self.byte()?);
                self.push_text(length)?;
            }
            0x8d => {
                let length = self.long_length()?;
                self.push_text(length)?;
            }
            b'B' => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                self.skip_bytes(length)?;
            }
            b'C' => {
                let length = usize::from(self.byte()?);
                self.skip_bytes(length)?;
            }
            0x8e | 0x96 => {
                let length = self.long_length()?;
                self.skip_bytes(length)?;
            }

            b')' => self.push(Object::Tuple(Vec::new()))?,
            b't' => {
                let items = self.pop_mark()?;
                self.push(Object::Tuple(items))?;
            }
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(opcode - 0x84))?;
                self.push(Object::Tuple(items))?;
            }
            b']' => self.push(Object::List(Vec::new()))?,
            b'l' => {
                let items = self.pop_mark()?;
                self.push(Object::List(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            b'}' => self.push(Object::Dict(Vec::new()))?,
            b'd' => {
                let items = self.pop_mark()?;
                self.push(Object::Dict(pairs(&items)?))?;
            }
            b's' => {
                let items = self.pop_many(2)?;
                self.set_items(&items)?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)?;
            }
            0x8f => self.push(Object::Opaque("set".into()))?,
            0x90 => self.drop_set()?, // ADDITEMS
            0x91 => {
                self.drop_set()?;
                self.push(Object::Opaque("frozenset".into()))?;
            }

            b'g' => {
                let index = self.line()?.parse().context("GET without a number")?;
                self.recall(index)?;
            }
            b'h' => {
                let index = u64::from(self.byte()?);
                self.recall(index)?;
            }
            b'j' => {
                let index = u64::from(u32::from_le_bytes(self.array()?));
                self.recall(index)?;
            }
            b'p' => {
                let index = self.line()?.parse().context("PUT without a number")?;
                self.remember(index)?;
            }
            b'q' => {
                let index = u64::from(self.byte()?);
                self.remember(index)?;
            }
            b'r' => {
                let index = u64::from(u32::from_le_bytes(self.array()?));
                self.remember(index)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,

            b'c' => {
                let global = self.global_of_lines()?;
                self.push(Object::Global(global))?;
            }
            0x93 => {
                let names = self.pop_many(2)?;
                let [Object::Text(module), Object::Text(name)] = [0, 1].map(|i| self.objects[names[i] as usize].clone()) else {
                    bail!("STACK_GLOBAL without two texts");
                };
                self.global_letters += module.len() + name.len();
                ensure!(
                    self.global_letters <= MAX_GLOBAL_LETTERS,
                    "the names of classes have more than {MAX_GLOBAL_LETTERS} letters together"
                );
                let global = self.global(&module, &name)?;
                self.push(Object::Global(global))?;
            }
            // EXT1, EXT2, EXT4: copyreg's registry, which is never asked.
            0x82 => self.extension(1)?,
            0x83 => self.extension(2)?,
            0x84 => self.extension(4)?,
            b'R' | 0x81 => {
                let call = self.pop_many(2)?;
                self.build(call[0], call[1])?;
            }
            0x92 => {
                let call = self.pop_many(3)?; // NEWOBJ_EX: class, arguments, keywords
                self.build(call[0], call[1])?;
            }
            b'o' => {
                let items = self.pop_mark()?;
                let class = *items.first().context("OBJ without a class")?;
                let arguments = self.object(Object::Tuple(items[1..].to_vec()))?;
                self.build(class, arguments)?;
            }
            b'i' => {
                let global = self.global_of_lines()?;
                self.pop_mark()?;
                self.stranger(global)?;
            }
            // State set on an object: attributes such as a state_dict's `_metadata`, hooks. None of it is a tensor by name.
            b'b' => drop(self.pop()?),
            b'Q' => {
                let id = self.pop()?;
                self.persistent(id)?;
            }
            b'P' => {
                self.line()?;
                self.push(Object::Opaque("a persistent id of protocol 0".into()))?;
            }
            _ => bail!("unknown opcode 0x{opcode:02x}"),
        }
        Ok(())
    }

    /// `module name` of GLOBAL and INST.
    fn global_of_lines(&mut self) -> Result<Rc<str>> {
        let module = self.line()?.to_string();
        let name = self.line()?.to_string();
        self.global(&module, &name)
    }

    /// Notes what stands for code, and ends the pickle there.
    fn global(&mut self, module: &str, name: &str) -> Result<Rc<str>> {
        if code::is_code(module, name) {
            self.code = Some(shown(&format!("{module}.{name}")));
            bail!("it carries code");
        }
        Ok(format!("{module} {name}").into())
    }

    /// What a set holds has no name, and is of no use here unless it is a tensor.
    fn drop_set(&mut self) -> Result<()> {
        let items = self.pop_mark()?;
        let is_tensor = |id: &Id| matches!(self.objects[*id as usize], Object::Tensor(_));
        ensure!(!items.iter().any(is_tensor), "a set holds a tensor, which has no name there");
        Ok(())
    }

    fn object(&mut self, object: Object) -> Result<Id> {
        ensure!(self.objects.len() < MAX_OBJECTS, "more than {MAX_OBJECTS} objects");
        self.objects.push(object);
        Ok((self.objects.len() - 1) as Id)
    }

    fn push(&mut self, object: Object) -> Result<()> {
        let id = self.object(object)?;
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        ensure!(self.stack.len() > floor, "the stack is empty");
        Ok(self.stack.pop().expect("higher than the floor"))
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        ensure!(self.stack.len() >= floor + count, "the stack holds less than {count} values");
        Ok(self.stack.split_off(self.stack.len() - count))
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let height = self.marks.pop().context("no mark on the stack")?;
        Ok(self.stack.split_off(height))
    }

    fn take(&mut self, count: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len()).context("it is cut short")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many as were asked for"))
    }

    fn long_length(&mut self) -> Result<usize> {
        usize::try_from(u64::from_le_bytes(self.array()?)).context("it is cut short")
    }

    /// Up to the next line feed, which is left out.
    fn line(&mut self) -> Result<&str> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| *byte == b'\n').context("a line has no end")?;
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).context("a line is not UTF-8")
    }

    fn push_text(&mut self, length: usize) -> Result<()> {
        // Python 2 wrote byte strings here: names of tensors are ASCII in either.
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.push(Object::Text(text.into()))
    }

    fn skip_bytes(&mut self, length: usize) -> Result<()> {
        self.take(length)?;
        self.push(Object::Opaque("bytes".into()))
    }

    fn push_int(&mut self, value: Option<i64>) -> Result<()> {
        self.push(value.map_or_else(|| Object::Opaque("a number beyond 64 bits".into()), Object::Int))
    }

    fn decimal_int(&mut self) -> Result<()> {
        match self.line()? {
            "00" => self.push(Object::Bool(false)),
            "01" => self.push(Object::Bool(true)),
            line => {
                let value = line.parse().ok();
                self.push_int(value)
            }
        }
    }

    /// A little-endian two's complement number of any length.
    fn long(&mut self, length: usize) -> Result<()> {
        let bytes = self.take(length)?;
        let value = (bytes.len() <= 8).then(|| {
            let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
            let mut wide = [if negative { 0xff } else { 0 }; 8];
            wide[..bytes.len()].copy_from_slice(bytes);
            i64::from_le_bytes(wide)
        });
        self.push_int(value)
    }

    fn extension(&mut self, length: usize) -> Result<()> {
        self.take(length)?;
        self.push(Object::Opaque("an extension code".into()))
    }

    fn remember(&mut self, index: u64) -> Result<()> {
        let top = *self.stack.last().context("PUT on an empty stack")?;
        self.memo.insert(index, top);
        ensure!(self.memo.len() <= MAX_OBJECTS, "more than {MAX_OBJECTS} remembered objects");
        Ok(())
    }

    fn recall(&mut self, index: u64) -> Result<()> {
        let id = *self.memo.get(&index).with_context(|| format!("nothing was stored as {index}"))?;
        self.stack.push(id);
        Ok(())
    }

    fn append(&mut self, items: Vec<Id>) -> Result<()> {
        let target = *self.stack.last().context("APPEND on an empty stack")?;
        match &mut self.objects[target as usize] {
            Object::List(list) => list.extend(items),
            // An object that is a list too. Its class is counted among the strangers.
            opaque @ Object::Opaque(_) => *opaque = Object::List(items),
            _ => bail!("APPEND to something that is no list"),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<()> {
        let target = *self.stack.last().context("SETITEM on an empty stack")?;
        match &mut self.objects[target as usize] {
            Object::Dict(entries) => entries.extend(pairs(items)?),
            // An object that is a dictionary too, as programs keep a state_dict in. Its class is counted among the strangers.
            opaque @ Object::Opaque(_) => *opaque = Object::Dict(pairs(items)?),
            _ => bail!("SETITEM on something that is no dictionary"),
        }
        Ok(())
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>> {
    ensure!(items.len().is_multiple_of(2), "a key without a value");
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8]) -> String {
        format!("{:#}", Pickle::run(bytes).unwrap_err())
    }

    #[test]
    fn a_pickle_that_carries_code_is_refused_and_says_which() {
        let named = |bytes: &[u8]| refused(bytes).split('`').nth(1).unwrap().to_string();
        let says =
            "this file carries code: its pickle names `os.system`, which weights do not need; get the model as safetensors";
        assert_eq!(refused(b"cos\nsystem\n(S'touch /nothing'\ntR."), says);
        // Named and not called; by texts; made by INST; behind an end that is not valid.
        assert_eq!(named(b"cos\nsystem\n."), "os.system");
        assert_eq!(named(b"\x8c\x08builtins\x8c\x04eval\x93."), "builtins.eval");
        assert_eq!(named(b"(S'x'\nisubprocess\nPopen\n."), "subprocess.Popen");
        assert_eq!(named(b"crunpy\nrun_path\n\xff"), "runpy.run_path");
    }

    #[test]
    fn calls_of_strangers_are_passed_over_and_counted() {
        let pickle = Pickle::run(b"(cnumpy.core.multiarray\nscalar\n)Rclightning\nThing\n)\x81clightning\nThing\n)Rt.").unwrap();
        let counted: Vec<(&str, usize)> = pickle.strangers.iter().map(|(name, count)| (&**name, *count)).collect();
        assert_eq!(counted, [("lightning Thing", 2), ("numpy.core.multiarray scalar", 1)]);
    }

    #[test]
    fn names_that_are_put_together_again_and_again_are_refused() {
        // A name of 1 MB, remembered, and two bytes for each copy of it.
        let mut bytes = b"\x80\x02X\0\0\x10\0".to_vec();
        bytes.extend(std::iter::repeat_n(b'a', 1 << 20));
        bytes.extend(b"q\x00");
        bytes.extend(b"h\x00h\x00\x93".repeat(1000));
        bytes.push(b'.');
        assert!(refused(&bytes).ends_with("the names of classes have more than 8388608 letters together"));
    }

    #[test]
    fn two_million_remembered_objects_are_the_limit() {
        let mut bytes = b"N".to_vec();
        bytes.extend(std::iter::repeat_n(0x94, MAX_OBJECTS + 1));
        bytes.push(b'.');
        assert!(refused(&bytes).ends_with("more than 2000000 remembered objects"));
    }

    #[test]
    fn a_list_that_holds_itself_is_read() {
        let pickle = Pickle::run(b"\x80\x02]q\x00h\x00a.").unwrap();
        assert!(matches!(pickle.get(pickle.root), Object::List(items) if items == &[pickle.root]));
    }

    #[test]
    fn a_million_nested_tuples_cost_no_stack() {
        let mut bytes = vec![b')'];
        bytes.extend(std::iter::repeat_n(0x85, 1_000_000));
        bytes.push(b'.');
        assert!(Pickle::run(&bytes).is_ok());
    }

    #[test]
    fn a_pickle_that_makes_too_many_objects_is_refused() {
        let mut bytes = vec![b'N'; MAX_OBJECTS + 1];
        bytes.push(b'.');
        assert_eq!(refused(&bytes), "the pickle is not valid at byte 2000001: more than 2000000 objects");
    }

    #[test]
    fn what_claims_to_be_longer_than_the_file_is_refused() {
        assert_eq!(refused(b"X\xff\xff\xff\xffab"), "the pickle is not valid at byte 5: it is cut short");
        assert_eq!(refused(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab"), "the pickle is not valid at byte 9: it is cut short");
        assert_eq!(refused(b""), "the pickle is not valid at byte 0: it is cut short");
    }

    #[test]
    fn what_pops_too_much_is_refused() {
        assert_eq!(refused(b"."), "the pickle is not valid at byte 1: the stack is empty");
        assert_eq!(refused(b"N(R."), "the pickle is not valid at byte 3: the stack holds less than 2 values");
        assert_eq!(refused(b"t."), "the pickle is not valid at byte 1: no mark on the stack");
    }
}
