"""`perennial lint`: what the text of a module shows to be wrong with its flows, without running it.

rules       what is looked for: why it is wrong, and what to write instead
names       what a name of the module stands for, by its imports
flow_code   which functions of the module are code of a flow
reading     the rules, over one function
module      one module: its findings, less those that are allowed
"""
