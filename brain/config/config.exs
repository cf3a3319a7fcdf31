import Config

# Standard output belongs to nobody here, but a service's log is expected on standard error.
config :logger, :console,
  device: :standard_error,
  format: "$dateT$timeZ level=$level $message\n"

config :logger, utc_log: true, handle_sasl_reports: false
