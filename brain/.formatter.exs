[
  inputs: ["{mix,.formatter}.exs", "{config,lib,test,rel}/**/*.{ex,exs}"],
  locals_without_parens: [check: 1, check: 2]
]
