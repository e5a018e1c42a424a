"""Before an experiment: what each gate will need, and how it behaves on traffic like this one."""
