//! What a component is made of, as far as the bound on the depth of calls needs it: its nested components and
//! modules, their functions, and what each function's frame counts for.

use std::collections::HashMap;

use wasmparser::{
    Encoding, FuncType, FuncValidatorAllocations, Operator, OperatorsReader, Parser, Payload,
    TypeRef, ValidPayload, Validator,
};

use super::DepthError;
use crate::profile::{self, DEPTH_BYTES_MAX, FRAME_BYTES, FRAME_SLOT_BYTES, LEAF_FRAME_BYTES_MAX};

/// Whether a component is one that the profile allows. What [`bound`](super::bound) makes of a valid one is.
///
/// # Errors
/// What is wrong with it, and where.
pub fn validate(component: &[u8]) -> Result<(), DepthError> {
    Validator::new_with_features(profile::features()).validate_all(component)?;
    for payload in Parser::new(0).parse_all(component) {
        nested_is_whole(&payload?, component)?;
    }
    Ok(())
}

/// Whether what is nested in a component ends within the file, which the validator does not ask.
fn nested_is_whole(payload: &Payload, component: &[u8]) -> Result<(), DepthError> {
    let (what, end) = match payload {
        Payload::ModuleSection {
            unchecked_range, ..
        } => ("module", unchecked_range.end),
        Payload::ComponentSection {
            unchecked_range, ..
        } => ("component", unchecked_range.end),
        _ => return Ok(()),
    };
    if end > component.len() {
        return Err(DepthError::Truncated(what));
    }
    Ok(())
}

/// What one function's frame counts for, and what is needed to count it.
#[derive(Debug)]
pub(super) struct Frame {
    /// Of the budget, in bytes; 0 if it is not counted.
    pub(super) bytes: u32,
    /// Parameters and locals.
    pub(super) locals: u32,
    /// Its type.
    pub(super) ty: u32,
}

/// A core module, as far as it matters here.
#[derive(Debug, Default)]
pub(super) struct ModuleShape {
    pub(super) types: Vec<FuncType>,
    pub(super) functions_imported: u32,
    pub(super) globals_imported: u32,
    pub(super) functions: Vec<u32>,
    pub(super) frames: Vec<Frame>,
}

#[derive(Debug, Default)]
pub(super) struct Shape {
    /// In the order in which they begin.
    pub(super) modules: Vec<ModuleShape>,
    /// By where a component begins: whether it instantiates core modules of its own.
    pub(super) components: HashMap<usize, bool>,
}

impl Shape {
    pub(super) fn of(component: &[u8]) -> Result<Self, DepthError> {
        let mut shape = Self::default();
        let mut validator = Validator::new_with_features(profile::features());
        let mut allocations = FuncValidatorAllocations::default();
        // Where the components and modules begin that are not at their end.
        let mut open: Vec<usize> = Vec::new();
        for payload in Parser::new(0).parse_all(component) {
            let payload = payload?;
            nested_is_whole(&payload, component)?;
            if let ValidPayload::Func(function, body) = validator.payload(&payload)? {
                let ty = function.ty;
                let mut function = function.into_validator(allocations);
                let mut frame = frame(&mut function, &body)?;
                frame.ty = ty;
                allocations = function.into_allocations();
                if let Some(module) = shape.modules.last_mut() {
                    module.frames.push(frame);
                }
            }
            match payload {
                Payload::Version {
                    encoding, range, ..
                } => {
                    open.push(range.start);
                    match encoding {
                        Encoding::Module => shape.modules.push(ModuleShape::default()),
                        Encoding::Component => {
                            shape.components.insert(range.start, false);
                        }
                    }
                }
                Payload::InstanceSection(_) => {
                    if let Some(has) = open
                        .last()
                        .and_then(|start| shape.components.get_mut(start))
                    {
                        *has = true;
                    }
                }
                Payload::ComponentImportSection(section) => {
                    for import in section {
                        if matches!(import?.ty, wasmparser::ComponentTypeRef::Module(_)) {
                            return Err(DepthError::ImportsModule);
                        }
                    }
                }
                Payload::End(_) => {
                    open.pop();
                }
                payload => {
                    if let Some(module) = shape.modules.last_mut() {
                        module.read(payload)?;
                    }
                }
            }
        }
        Ok(shape)
    }
}

impl ModuleShape {
    fn read(&mut self, payload: Payload) -> Result<(), wasmparser::Error> {
        match payload {
            Payload::TypeSection(section) => {
                for ty in section.into_iter_err_on_gc_types() {
                    self.types.push(ty?);
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    match import?.ty {
                        TypeRef::Func(_) | TypeRef::FuncExact(_) => self.functions_imported += 1,
                        TypeRef::Global(_) => self.globals_imported += 1,
                        TypeRef::Table(_) | TypeRef::Memory(_) | TypeRef::Tag(_) => {}
                    }
                }
            }
            Payload::FunctionSection(section) => {
                for ty in section {
                    self.functions.push(ty?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Types that functions with several results need for their block: no parameters, those results.
    pub(super) fn block_types(&self) -> Vec<&[wasmparser::ValType]> {
        let mut found: Vec<&[wasmparser::ValType]> = Vec::new();
        for ty in self
            .functions
            .iter()
            .filter_map(|ty| self.types.get(*ty as usize))
        {
            if ty.results().len() > 1 && !found.contains(&ty.results()) {
                found.push(ty.results());
            }
        }
        found
    }

    /// Where the type of `$too-deep` is; those of blocks follow it.
    pub(super) fn own_type(&self) -> u32 {
        self.types.len() as u32
    }

    pub(super) fn too_deep(&self) -> u32 {
        self.functions_imported + self.functions.len() as u32
    }
}

fn frame(
    function: &mut wasmparser::FuncValidator<wasmparser::ValidatorResources>,
    body: &wasmparser::FunctionBody,
) -> Result<Frame, wasmparser::Error> {
    let mut reader = body.get_binary_reader();
    function.read_locals(&mut reader)?;
    let locals = function.len_locals();
    let mut operators = OperatorsReader::new(reader);
    let (mut height, mut calls) = (0, false);
    while !operators.eof() {
        let at = operators.original_position();
        let operator = operators.read()?;
        calls |= matches!(
            operator,
            Operator::Call { .. }
                | Operator::CallIndirect { .. }
                | Operator::ReturnCall { .. }
                | Operator::ReturnCallIndirect { .. }
        );
        function.op(at, &operator)?;
        height = height.max(function.operand_stack_height());
    }
    operators.finish()?;
    let slots = locals.saturating_add(height);
    let bytes = slots
        .saturating_mul(FRAME_SLOT_BYTES)
        .saturating_add(FRAME_BYTES);
    let counted = calls || bytes > LEAF_FRAME_BYTES_MAX;
    Ok(Frame {
        bytes: if counted {
            bytes.min(DEPTH_BYTES_MAX + 1)
        } else {
            0
        },
        locals,
        ty: 0,
    })
}
