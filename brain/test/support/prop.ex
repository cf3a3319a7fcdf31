defmodule Brain.Prop do
  @moduledoc """
  PropEr from Elixir: its macros are Erlang's, its functions serve.
  """

  @doc "Runs a property and raises with the shrunk counterexample if it fails."
  @spec check(:proper_types.type(), (term -> boolean), keyword) :: :ok
  def check(type, fun, opts \\ []) do
    case counterexample(type, fun, opts) do
      nil ->
        :ok

      {found, why} ->
        raise ExUnit.AssertionError,
          message: "property fails for\n#{inspect(found, pretty: true, limit: :infinity)}\n#{why}"
    end
  end

  @doc "The shrunk counterexample and what was raised, or nil."
  @spec counterexample(:proper_types.type(), (term -> boolean), keyword) ::
          {term, String.t()} | nil
  def counterexample(type, fun, opts \\ []) do
    times = times(System.get_env("NUMTESTS"), opts[:numtests] || 300)

    safe = fn value ->
      try do
        fun.(value)
      rescue
        error ->
          Process.put(:why, Exception.format(:error, error, __STACKTRACE__))
          false
      end
    end

    property = :proper.forall(type, safe)
    options = [:long_result, :quiet, numtests: times, max_size: opts[:max_size] || 42]
    # Whoever only wants to know that there is one need not wait for the smallest.
    options = if opts[:shrink] == false, do: [:noshrink | options], else: options

    case :proper.quickcheck(property, options) do
      true -> nil
      [found] -> {found, Process.get(:why, "")}
      {:error, why} -> raise "PropEr could not run: #{inspect(why)}"
    end
  end

  # More for a soak; never fewer than a test was written for.
  defp times(nil, n), do: n
  defp times(more, n), do: max(String.to_integer(more), n)

  @doc """
  A copy of modules under other names, with text replaced, for tests that the properties fail for
  weakened code. Every pair of texts must occur, or the mutation would be none.
  """
  @spec mutant([Path.t()], module, module, [{String.t(), String.t()}]) :: module
  def mutant(files, from, to, replacements) do
    source = Enum.map_join(files, "\n", &File.read!/1)

    mutated =
      Enum.reduce(replacements, source, fn {old, new}, source ->
        if not String.contains?(source, old), do: raise("nothing to weaken: #{old}")
        String.replace(source, old, new)
      end)

    options = Code.compiler_options(ignore_module_conflict: true)

    ExUnit.CaptureIO.capture_io(:stderr, fn ->
      mutated |> String.replace(inspect(from), inspect(to)) |> Code.compile_string()
    end)

    Code.compiler_options(options)
    to
  end
end
