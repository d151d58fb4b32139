"""The CloudFormation stack, its state machine, its checks and its costs."""
