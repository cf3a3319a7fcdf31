//! Reads terms into the types that are expected.

use bytes::{Buf as _, Bytes};

use super::{
    ATOM, ATOM_UTF8, BINARY, INTEGER, LARGE_TUPLE, LIST, MAP, NIL, SMALL_ATOM, SMALL_ATOM_UTF8,
    SMALL_BIG, SMALL_INTEGER, SMALL_TUPLE, STRING, VERSION,
};

/// How deep [`Reader::skip`] follows.
const DEPTH: u8 = 16;

/// A term that is not what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The bytes end within the term.
    #[error("the term is cut short")]
    Short,
    /// Bytes follow the term.
    #[error("{0} bytes follow the term")]
    Rest(usize),
    /// Another type.
    #[error("{wanted} expected, found tag {found}")]
    Type {
        /// What was expected.
        wanted: &'static str,
        /// The tag found.
        found: u8,
    },
    /// A value that is not allowed there.
    #[error("{0}")]
    Value(String),
}

/// What the next term is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of any size.
    Integer,
    /// An atom.
    Atom,
    /// A tuple.
    Tuple,
    /// A list, also an empty one.
    List,
    /// A binary.
    Binary,
    /// A map.
    Map,
}

/// A term that is read front to back.
#[derive(Debug)]
pub struct Reader {
    rest: Bytes,
}

// === impl Reader ===

impl Reader {
    /// Reads one external term.
    ///
    /// # Errors
    /// If it does not begin as one.
    pub fn new(bytes: Bytes) -> Result<Self, ReadError> {
        let mut reader = Self { rest: bytes };
        match reader.byte()? {
            VERSION => Ok(reader),
            found => Err(wrong("an external term", found)),
        }
    }

    /// What comes next.
    ///
    /// # Errors
    /// If nothing comes, or nothing that is known.
    pub fn kind(&self) -> Result<Kind, ReadError> {
        Ok(match *self.rest.first().ok_or(ReadError::Short)? {
            SMALL_INTEGER | INTEGER | SMALL_BIG => Kind::Integer,
            ATOM | SMALL_ATOM | ATOM_UTF8 | SMALL_ATOM_UTF8 => Kind::Atom,
            SMALL_TUPLE | LARGE_TUPLE => Kind::Tuple,
            NIL | STRING | LIST => Kind::List,
            BINARY => Kind::Binary,
            MAP => Kind::Map,
            found => return Err(wrong("a known type", found)),
        })
    }

    /// Asserts that nothing follows.
    ///
    /// # Errors
    /// If something does.
    pub fn end(&self) -> Result<(), ReadError> {
        match self.rest.len() {
            0 => Ok(()),
            rest => Err(ReadError::Rest(rest)),
        }
    }

    /// A tuple's arity; its elements follow.
    ///
    /// # Errors
    /// If it is none.
    pub fn tuple(&mut self) -> Result<usize, ReadError> {
        match self.byte()? {
            SMALL_TUPLE => Ok(usize::from(self.byte()?)),
            LARGE_TUPLE => self.len(),
            found => Err(wrong("a tuple", found)),
        }
    }

    /// A tuple of `arity` elements, which follow.
    ///
    /// # Errors
    /// If it is none of that arity.
    pub fn tuple_of(&mut self, arity: usize) -> Result<(), ReadError> {
        match self.tuple()? {
            found if found == arity => Ok(()),
            found => Err(ReadError::Value(format!(
                "a tuple of {arity} expected, found one of {found}"
            ))),
        }
    }

    /// A map's number of pairs, which follow.
    ///
    /// # Errors
    /// If it is none.
    pub fn map(&mut self) -> Result<usize, ReadError> {
        match self.byte()? {
            MAP => self.len(),
            found => Err(wrong("a map", found)),
        }
    }

    /// An atom.
    ///
    /// # Errors
    /// If it is none.
    pub fn atom(&mut self) -> Result<String, ReadError> {
        let tag = self.byte()?;
        let len = match tag {
            ATOM | ATOM_UTF8 => self.short()?,
            SMALL_ATOM | SMALL_ATOM_UTF8 => usize::from(self.byte()?),
            found => return Err(wrong("an atom", found)),
        };
        let bytes = self.take(len)?;
        Ok(if matches!(tag, ATOM | SMALL_ATOM) {
            bytes.iter().map(|byte| char::from(*byte)).collect()
        } else {
            utf8(&bytes)?
        })
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn bool(&mut self) -> Result<bool, ReadError> {
        match &*self.atom()? {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(ReadError::Value(format!("`{other}` is no boolean"))),
        }
    }

    /// A number that is not negative and has at most 64 bits.
    ///
    /// # Errors
    /// If it is none.
    pub fn uint(&mut self) -> Result<u64, ReadError> {
        match self.byte()? {
            SMALL_INTEGER => Ok(self.byte()?.into()),
            INTEGER => {
                let value = i32::from_be_bytes(self.array()?);
                u64::try_from(value).map_err(|_| ReadError::Value(format!("{value} is negative")))
            }
            SMALL_BIG => {
                let len = usize::from(self.byte()?);
                let sign = self.byte()?;
                let digits = self.take(len)?;
                if len > 8 || sign != 0 {
                    return Err(ReadError::Value("a number out of range".to_owned()));
                }
                let mut value = [0; 8];
                value[..len].copy_from_slice(&digits);
                Ok(u64::from_le_bytes(value))
            }
            found => Err(wrong("a number", found)),
        }
    }

    /// A number of at most 32 bits.
    ///
    /// # Errors
    /// If it is none.
    pub fn uint32(&mut self) -> Result<u32, ReadError> {
        let value = self.uint()?;
        u32::try_from(value).map_err(|_| ReadError::Value(format!("{value} has over 32 bits")))
    }

    /// A binary, without a copy.
    ///
    /// # Errors
    /// If it is none.
    pub fn binary(&mut self) -> Result<Bytes, ReadError> {
        match self.byte()? {
            BINARY => {
                let len = self.len()?;
                self.take(len)
            }
            found => Err(wrong("a binary", found)),
        }
    }

    /// A binary that is UTF-8.
    ///
    /// # Errors
    /// If it is none.
    pub fn text(&mut self) -> Result<String, ReadError> {
        utf8(&self.binary()?)
    }

    /// A proper list, its elements read by `each`.
    ///
    /// # Errors
    /// If it is none, or an element is not what `each` expects.
    pub fn list<T>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<T, ReadError>,
    ) -> Result<Vec<T>, ReadError> {
        match self.byte()? {
            NIL => Ok(Vec::new()),
            STRING => {
                let len = self.short()?;
                let bytes = self.take(len)?;
                let one = |byte: &u8| {
                    each(&mut Self {
                        rest: Bytes::copy_from_slice(&[SMALL_INTEGER, *byte]),
                    })
                };
                bytes.iter().map(one).collect()
            }
            LIST => {
                let len = self.len()?;
                // Grown as elements come: the announced length may be a lie.
                let mut items = Vec::new();
                for _ in 0..len {
                    items.push(each(self)?);
                }
                match self.byte()? {
                    NIL => Ok(items),
                    found => Err(wrong("the end of a list", found)),
                }
            }
            found => Err(wrong("a list", found)),
        }
    }

    /// Passes over a term.
    ///
    /// # Errors
    /// If it is none that is known.
    pub fn skip(&mut self) -> Result<(), ReadError> {
        self.skip_to(DEPTH)
    }

    fn skip_to(&mut self, depth: u8) -> Result<(), ReadError> {
        let inner = depth
            .checked_sub(1)
            .ok_or_else(|| ReadError::Value("a term too deep".to_owned()))?;
        match self.kind()? {
            Kind::Integer => self.uint().map(drop),
            Kind::Atom => self.atom().map(drop),
            Kind::Binary => self.binary().map(drop),
            Kind::List => self.list(|reader| reader.skip_to(inner)).map(drop),
            Kind::Tuple => {
                let arity = self.tuple()?;
                (0..arity).try_for_each(|_| self.skip_to(inner))
            }
            Kind::Map => {
                let pairs = self.map()?;
                (0..pairs).try_for_each(|_| {
                    self.skip_to(inner)?;
                    self.skip_to(inner)
                })
            }
        }
    }

    fn byte(&mut self) -> Result<u8, ReadError> {
        self.rest.try_get_u8().map_err(|_| ReadError::Short)
    }

    fn short(&mut self) -> Result<usize, ReadError> {
        Ok(u16::from_be_bytes(self.array()?).into())
    }

    fn len(&mut self) -> Result<usize, ReadError> {
        let len = u32::from_be_bytes(self.array()?);
        Ok(usize::try_from(len).unwrap_or(usize::MAX))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let (array, _) = self.rest.split_first_chunk().ok_or(ReadError::Short)?;
        let array = *array;
        self.rest.advance(N);
        Ok(array)
    }

    fn take(&mut self, len: usize) -> Result<Bytes, ReadError> {
        if len > self.rest.len() {
            return Err(ReadError::Short);
        }
        Ok(self.rest.split_to(len))
    }
}

fn wrong(wanted: &'static str, found: u8) -> ReadError {
    ReadError::Type { wanted, found }
}

fn utf8(bytes: &[u8]) -> Result<String, ReadError> {
    let text = std::str::from_utf8(bytes);
    text.map(str::to_owned)
        .map_err(|_| ReadError::Value("text that is not UTF-8".to_owned()))
}
