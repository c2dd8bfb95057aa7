//! The bound on the depth of calls, kept by code that is put into a component before it is compiled.
//!
//! How deep native frames are nested when the native stack ends differs between engines and processors, so
//! that bound can be no outcome. This one can: every function takes what its frame counts for from a
//! budget when it begins and gives it back when it ends, and a function that finds too little left traps.
//! What a frame counts for follows from the function's locals and operands, as the specification has them,
//! and is more than what the engine makes of it: the native stack is not reached.
//!
//! All core modules of a component share one budget, a mutable global of an instance that is put before
//! theirs. Where components are nested in each other, each that has core modules has an equal part of it;
//! at most `BUDGETS_MAX` do. Functions that call nothing and have a small frame count nothing.
//!
//! What it does to a function, in the text format:
//!
//! ```text
//! global.get $left  local.tee $before  i32.const FRAME  i32.lt_u
//! if  call $too-deep  end
//! local.get $before  i32.const FRAME  i32.sub  global.set $left
//! block (result …)  the body, with a branch in the place of each return  end
//! local.get $before  global.set $left
//! ```
//!
//! `$too-deep` is a function of the module's own, its last one, which nothing of the guest's can name: a
//! trap there is told from all others by where it happened.

use std::collections::HashMap;

use wasm_encoder::reencode::{self, Reencode, ReencodeComponent, component_utils, utils};
use wasm_encoder::{
    BlockType, CodeSection, Component, ConstExpr, EntityType, ExportKind, ExportSection, Function,
    FunctionSection, GlobalSection, GlobalType, ImportSection, InstanceSection, Instruction,
    Module, ModuleArg, ModuleSection, SectionId, TypeSection, ValType,
};
use wasmparser::{Operator, Parser, Payload};

use crate::profile::{BUDGETS_MAX, DEPTH_BYTES_MAX};

mod shape;

pub use shape::validate;
use shape::{Frame, ModuleShape, Shape};

/// What modules import the budget as; no compiler gives a module a name with a space.
const MODULE: &str = "lattice depth";
const GLOBAL: &str = "left";

/// Why a component cannot be given the bound.
#[derive(Debug, thiserror::Error)]
pub enum DepthError {
    /// It is not valid.
    #[error(transparent)]
    Invalid(#[from] wasmparser::Error),
    /// The file ends before a component or module that is nested in it.
    #[error("it ends before a {0} that is nested in it does; get the whole file")]
    Truncated(&'static str),
    /// Too many components with core modules of their own are nested in each other.
    #[error(
        "it is made of {0} components with core modules of their own; make it of at most {BUDGETS_MAX}"
    )]
    Budgets(usize),
    /// A component that is nested in it imports a core module.
    #[error(
        "a component that is nested in it imports a core module, which this host does not support"
    )]
    ImportsModule,
    /// It cannot be written again.
    #[error("it cannot be given the bound on the depth of calls: {0}")]
    Encoding(String),
}

impl From<reencode::Error<DepthError>> for DepthError {
    fn from(error: reencode::Error<DepthError>) -> Self {
        match error {
            reencode::Error::UserError(error) => error,
            reencode::Error::ParseError(error) => DepthError::Invalid(error),
            other => DepthError::Encoding(other.to_string()),
        }
    }
}

/// The component with the bound put into it.
///
/// # Errors
/// When it is not valid, or of a shape that the bound cannot be put into.
pub fn bound(component: &[u8]) -> Result<Vec<u8>, DepthError> {
    let shape = Shape::of(component)?;
    let budgets = shape.components.values().filter(|has| **has).count();
    if budgets > BUDGETS_MAX {
        return Err(DepthError::Budgets(budgets));
    }
    let mut bounder = Bounder {
        budget: DEPTH_BYTES_MAX / budgets.max(1) as u32,
        components: shape.components,
        modules: shape.modules.into_iter(),
        module: None,
        counts: vec![false],
    };
    let mut bounded = Component::new();
    bounder.parse_component(&mut bounded, Parser::new(0), component)?;
    Ok(bounded.finish())
}

/// A module whose functions are being given the bound.
#[derive(Debug)]
struct Bounded {
    shape: ModuleShape,
    next_frame: usize,
    imported: bool,
}

struct Bounder {
    /// What each component has, in bytes.
    budget: u32,
    components: HashMap<usize, bool>,
    modules: std::vec::IntoIter<ModuleShape>,
    /// `None` in a module without functions, which stays as it is.
    module: Option<Bounded>,
    /// Whether the component, and each that it is nested in, has a budget; `false` for modules and types.
    counts: Vec<bool>,
}

type Encoded<T> = Result<T, reencode::Error<DepthError>>;

/// A module that exports a budget of so many bytes.
fn budget(bytes: u32) -> Module {
    let mut globals = GlobalSection::new();
    globals.global(GLOBAL_TYPE, &ConstExpr::i32_const(bytes as i32));
    let mut exports = ExportSection::new();
    exports.export(GLOBAL, ExportKind::Global, 0);
    let mut module = Module::new();
    module.section(&globals).section(&exports);
    module
}

const GLOBAL_TYPE: GlobalType = GlobalType {
    val_type: ValType::I32,
    mutable: true,
    shared: false,
};

impl Bounder {
    fn has_budget(&self, outwards: u32) -> bool {
        let place = self.counts.len().checked_sub(1 + outwards as usize);
        place.is_some_and(|place| self.counts[place])
    }

    fn import(imports: &mut ImportSection) {
        imports.import(MODULE, GLOBAL, EntityType::Global(GLOBAL_TYPE));
    }
}

impl Reencode for Bounder {
    type Error = DepthError;

    fn global_index(&mut self, global: u32) -> Encoded<u32> {
        Ok(match &self.module {
            Some(module) if global >= module.shape.globals_imported => global + 1,
            _ => global,
        })
    }

    fn parse_type_section(
        &mut self,
        types: &mut TypeSection,
        section: wasmparser::TypeSectionReader<'_>,
    ) -> Encoded<()> {
        utils::parse_type_section(self, types, section)?;
        if let Some(module) = self.module.take() {
            types.ty().function([], []);
            for results in module.shape.block_types() {
                types.ty().function([], self.val_types(results.to_vec())?);
            }
            self.module = Some(module);
        }
        Ok(())
    }

    fn parse_import_section(
        &mut self,
        imports: &mut ImportSection,
        section: wasmparser::ImportSectionReader<'_>,
    ) -> Encoded<()> {
        utils::parse_import_section(self, imports, section)?;
        if let Some(module) = &mut self.module {
            module.imported = true;
            Self::import(imports);
        }
        Ok(())
    }

    fn intersperse_section_hook(
        &mut self,
        out: &mut Module,
        _after: Option<SectionId>,
        before: Option<SectionId>,
    ) -> Encoded<()> {
        let early = matches!(before, Some(SectionId::Type | SectionId::Import));
        if let Some(module) = &mut self.module
            && !early
            && !module.imported
        {
            module.imported = true;
            let mut imports = ImportSection::new();
            Self::import(&mut imports);
            out.section(&imports);
        }
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: wasmparser::FunctionSectionReader<'_>,
    ) -> Encoded<()> {
        utils::parse_function_section(self, functions, section)?;
        if let Some(module) = &self.module {
            functions.function(module.shape.own_type());
        }
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: wasmparser::CodeSectionReader<'_>,
    ) -> Encoded<()> {
        utils::parse_code_section(self, code, section)?;
        if self.module.is_some() {
            let mut too_deep = Function::new([]);
            too_deep.instruction(&Instruction::Unreachable);
            too_deep.instruction(&Instruction::End);
            code.function(&too_deep);
        }
        Ok(())
    }

    fn parse_function_body(
        &mut self,
        code: &mut CodeSection,
        body: wasmparser::FunctionBody<'_>,
    ) -> Encoded<()> {
        let frame = self.module.as_mut().and_then(|module| {
            module.next_frame += 1;
            module.shape.frames.get(module.next_frame - 1)
        });
        let Some(&Frame { bytes, locals, ty }) = frame.filter(|frame| frame.bytes > 0) else {
            return utils::parse_function_body(self, code, body);
        };
        let block = self.block_type_of(ty)?;
        let module = self.module.as_ref().expect("the frame is one of its");
        let (left, too_deep) = (module.shape.globals_imported, module.shape.too_deep());
        let mut declared = Vec::new();
        for local in body.get_locals_reader()? {
            let (count, ty) = local?;
            declared.push((count, self.val_type(ty)?));
        }
        declared.push((1, ValType::I32));
        let before = locals;
        let mut out = Function::new(declared);
        let mut put = |instruction: &Instruction<'_>| {
            out.instruction(instruction);
        };
        for instruction in [
            Instruction::GlobalGet(left),
            Instruction::LocalTee(before),
            Instruction::I32Const(bytes as i32),
            Instruction::I32LtU,
            Instruction::If(BlockType::Empty),
            Instruction::Call(too_deep),
            Instruction::End,
            Instruction::LocalGet(before),
            Instruction::I32Const(bytes as i32),
            Instruction::I32Sub,
            Instruction::GlobalSet(left),
            Instruction::Block(block),
        ] {
            put(&instruction);
        }
        let leave = [Instruction::LocalGet(before), Instruction::GlobalSet(left)];
        let mut depth: u32 = 0;
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            let operator = operators.read()?;
            match operator {
                Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => depth += 1,
                // The last one, of the function, ends the block around the body.
                Operator::End => depth = depth.saturating_sub(1),
                Operator::Return => {
                    put(&Instruction::Br(depth));
                    continue;
                }
                Operator::ReturnCall { .. } | Operator::ReturnCallIndirect { .. } => {
                    leave.iter().for_each(&mut put);
                }
                _ => {}
            }
            put(&self.instruction(operator)?);
        }
        leave.iter().for_each(&mut put);
        put(&Instruction::End);
        code.function(&out);
        Ok(())
    }
}

impl Bounder {
    /// The type of the block around the body of a function of this type.
    fn block_type_of(&mut self, ty: u32) -> Encoded<BlockType> {
        let module = self.module.as_ref().expect("functions are in modules");
        let results = match module.shape.types.get(ty as usize) {
            Some(ty) => ty.results(),
            None => &[],
        };
        Ok(match results {
            [] => BlockType::Empty,
            [one] => {
                let one = *one;
                BlockType::Result(self.val_type(one)?)
            }
            several => {
                let types = module.shape.block_types();
                let place = types.iter().position(|ty| *ty == several);
                let place = place.expect("it is of a function of this module");
                BlockType::FunctionType(module.shape.own_type() + 1 + place as u32)
            }
        })
    }
}

impl ReencodeComponent for Bounder {
    fn module_index(&mut self, module: u32) -> u32 {
        module + u32::from(self.has_budget(0))
    }

    fn outer_module_index(&mut self, count: u32, module: u32) -> u32 {
        module + u32::from(self.has_budget(count))
    }

    fn instance_index(&mut self, instance: u32) -> u32 {
        instance + u32::from(self.has_budget(0))
    }

    fn push_depth(&mut self) {
        self.counts.push(false);
    }

    fn pop_depth(&mut self) {
        self.counts.pop();
    }

    fn parse_component_payload(
        &mut self,
        component: &mut Component,
        payload: Payload<'_>,
        whole_component: &[u8],
    ) -> Encoded<()> {
        if let Payload::Version { range, .. } = &payload {
            let counts = self.components.get(&range.start) == Some(&true);
            if let Some(innermost) = self.counts.last_mut() {
                *innermost = counts;
            }
            if counts {
                component.section(&ModuleSection(&budget(self.budget)));
                let mut instances = InstanceSection::new();
                instances.instantiate(0, std::iter::empty::<(&str, ModuleArg)>());
                component.section(&instances);
            }
        }
        component_utils::parse_component_payload(self, component, payload, whole_component)
    }

    fn parse_component_submodule(
        &mut self,
        component: &mut Component,
        parser: Parser,
        module: &[u8],
    ) -> Encoded<()> {
        let shape = self.modules.next().expect("it was seen before");
        self.module = (!shape.functions.is_empty()).then_some(Bounded {
            shape,
            next_frame: 0,
            imported: false,
        });
        component_utils::parse_component_submodule(self, component, parser, module)?;
        self.module = None;
        Ok(())
    }

    fn parse_instance(
        &mut self,
        instances: &mut InstanceSection,
        instance: wasmparser::Instance<'_>,
    ) -> Encoded<()> {
        match instance {
            wasmparser::Instance::Instantiate { module_index, args } => {
                let module = self.module_index(module_index);
                let args = args
                    .iter()
                    .map(|arg| (arg.name, self.instance_index(arg.index)));
                let args: Vec<(&str, u32)> = args.chain([(MODULE, 0)]).collect();
                let args = args
                    .into_iter()
                    .map(|(name, at)| (name, ModuleArg::Instance(at)));
                instances.instantiate(module, args);
                Ok(())
            }
            exports => component_utils::parse_instance(self, instances, exports),
        }
    }
}
